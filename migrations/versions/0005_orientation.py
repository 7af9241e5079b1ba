"""What workers make of an orientation in EXIF, with each result.

Workers of the version before go on meanwhile: they write no such column, and it may be empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that no row is rewritten.
    op.add_column("results", sa.Column("orientation", sa.String(length=8), nullable=True))
