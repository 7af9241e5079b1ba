"""Images of a chunk that wait for a time of their own, and the fault that its last run met.

Workers and dispatchers of the version before go on meanwhile: a message of some images of a chunk
has a version that they leave alone, and they write neither of the new columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chunks", sa.Column("later", sa.JSON(), nullable=True))
    op.add_column("chunks", sa.Column("fault", sa.Text(), nullable=True))
    # Of no rows yet, so that it is made at once.
    op.create_index(
        "ix_chunks_fault",
        "chunks",
        ["job_number"],
        postgresql_where=sa.text("fault IS NOT NULL"),
        sqlite_where=sa.text("fault IS NOT NULL"),
    )
