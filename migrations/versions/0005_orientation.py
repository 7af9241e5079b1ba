"""How workers treat an orientation in EXIF, recorded with each result.

Workers of the previous version keep running: they do not write this column, which may be empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # It has no default, so that no row is rewritten.
    op.add_column("results", sa.Column("orientation", sa.String(length=8), nullable=True))
