"""Which dispatcher leads, and what has crashed workers.

Workers, dispatchers and submits of the version before run on meanwhile: nothing that they read
or write is changed, and of what is new they need not say anything.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leaders",
        sa.Column("role", sa.String(length=16), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("role", name="pk_leaders"),
    )
    op.add_column("chunks", sa.Column("alone_offset", sa.SmallInteger(), nullable=True))
    op.add_column("chunks", sa.Column("alone_generation", sa.Integer(), nullable=True))
    op.add_column("chunks", sa.Column("crashes", sa.JSON(), nullable=True))
    # After the chunks, as in every transaction that has to do with both.
    op.add_column("workers", sa.Column("crashed_by", sa.Text(), nullable=True))
