"""Times of the images in a worker's tally, by stage.

Programs of the previous version keep running: they do not use the new column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tallies", sa.Column("stages", sa.JSON(), nullable=True))
