"""Images of a chunk that wait for other times, and the error that the chunk's last run met.

Workers and dispatchers of the previous version keep running: they leave messages for a part of a
chunk, which have a new version, to newer workers, and they write neither of the new columns.
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
    # The index has no rows yet, so creating it takes no time.
    op.create_index(
        "ix_chunks_fault",
        "chunks",
        ["job_number"],
        postgresql_where=sa.text("fault IS NOT NULL"),
        sqlite_where=sa.text("fault IS NOT NULL"),
    )
