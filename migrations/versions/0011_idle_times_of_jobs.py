"""How long a job was at rest between an end and a retry.

Programs of the previous version keep running: they do not use the new column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("idle_s", sa.Double(), nullable=True))
