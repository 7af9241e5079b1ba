"""Thumbnails: small pictures of a sample of each job.

Programs of the previous version keep running: they neither read nor write the new table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# SQLite numbers rows automatically only in a column of type INTEGER.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "thumbnails",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("class_id", sa.SmallInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("jpeg", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"],
            ["jobs.number"],
            name="fk_thumbnails_job_number_jobs",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_number", "position", name="pk_thumbnails"),
    )
    op.create_index("ix_thumbnails_created_at", "thumbnails", ["created_at"], unique=False)
    op.create_index(
        "ix_thumbnails_job_number_class_id",
        "thumbnails",
        ["job_number", "class_id"],
        unique=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # PostgreSQL need not try to compress a JPEG.
        op.execute("ALTER TABLE thumbnails ALTER COLUMN jpeg SET STORAGE EXTERNAL")
