"""Times of a job's images, by stage.

Programs of the previous version keep running: they do not use the new column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("stages", sa.JSON(), nullable=True))
