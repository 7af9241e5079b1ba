"""A view `predictions` that uses the indexes; a submit's heartbeat and a digest of its images.

Programs of the previous version keep running: the view has the same columns, the new columns of
`jobs` may be empty, and no row is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One row for each of an image's top 5, so that users can query `WHERE label = 'tabby'`.
# Each rank is a complete query with its own joins. So a database can push the reader's conditions
# into each, skip the ranks that are not asked for, and use the indexes of `results`.
RANKS = "\nUNION ALL\n".join(
    f"""SELECT jobs.id AS job, results.position, results.uri, results.ref, {rank} AS rank,
       labels.label, results.class_{rank} AS class_id, results.score_{rank} AS score,
       models.title AS model
FROM results
JOIN jobs ON jobs.number = results.job_number
JOIN models ON models.number = results.model_number
JOIN labels ON labels.model_number = results.model_number
           AND labels.class_id = results.class_{rank}"""
    for rank in range(1, 6)
)


def upgrade() -> None:
    # The view first: its readers lock it before the tables, so that order cannot deadlock.
    if op.get_bind().dialect.name == "postgresql":
        # Replacing it keeps users' grants on it and their own views of it.
        op.execute(f"CREATE OR REPLACE VIEW predictions AS {RANKS}")
    else:
        op.execute("DROP VIEW predictions")
        op.execute(f"CREATE VIEW predictions AS {RANKS}")
    op.add_column("jobs", sa.Column("images_digest", sa.String(length=64), nullable=True))
    op.add_column(
        "jobs", sa.Column("submit_heartbeat_at", sa.DateTime(timezone=True), nullable=True)
    )
