"""Sessions of the pages, and an index of failed images.

Programs of the previous version keep running, because they use neither. On PostgreSQL, workers
cannot store results until the index is built, which takes about a second per million results.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("is_link", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name="fk_sessions_key_id_api_keys", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name="pk_sessions"),
    )
    failed = sa.text("error_code IS NOT NULL")
    op.create_index(
        "ix_results_failed",
        "results",
        ["job_number", "error_code", "position"],
        postgresql_where=failed,
        sqlite_where=failed,
    )
