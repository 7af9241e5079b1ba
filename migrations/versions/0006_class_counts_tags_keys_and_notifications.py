"""Counts of classes, tags and pauses of jobs, keys of the HTTP API, notifications; two views.

Programs of the previous version keep running: they do not write the new columns, all of which may
be empty, and no row is rewritten. Their results are missing in `class_counts`; a reader notices
that the counts do not add up, and counts the results instead.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# SQLite numbers rows automatically only in a column of type INTEGER.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)

# The host that a URI names, in lower case, without its port; for an object store the bucket.
# A file has no host. URIs that are fetched never have a user name or a password.
REST = "substr(results.uri, instr(results.uri, '://') + 3)"
SLASHED = f"replace(replace({REST}, '?', '/'), '#', '/') || '/'"
AUTHORITY = f"substr({REST}, 1, instr({SLASHED}, '/') - 1)"
HOST = {
    "postgresql": r"""CASE WHEN results.uri NOT ILIKE 'file:%'
       THEN lower(substring(results.uri from '^[A-Za-z0-9+.-]+://(\[[^]]*\]|[^/?#:]+)')) END""",
    "sqlite": f"""CASE WHEN results.uri LIKE 'file:%' OR instr(results.uri, '://') = 0 THEN NULL
       WHEN {REST} LIKE '[%' THEN lower(substr({REST}, 1, instr({REST}, ']')))
       ELSE nullif(lower(substr({AUTHORITY}, 1, instr({AUTHORITY} || ':', ':') - 1)), '') END""",
}
# One row for each finished image, with its job's id, its host and its most likely class.
IMAGES = """
CREATE VIEW images AS
SELECT jobs.id AS job, results.position, results.uri, results.ref,
       {host} AS host,
       CASE WHEN results.error_code IS NULL THEN 'classified' ELSE 'failed' END AS status,
       labels.label, results.class_1 AS class_id, results.score_1 AS score,
       results.error_code, results.error_detail, models.title AS model, results.precision,
       results.orientation, results.attempts, results.settled_at, results.worker,
       results.final_uri, results.bytes, results.sha256, results.format, results.width,
       results.height
FROM results
JOIN jobs ON jobs.number = results.job_number
LEFT JOIN models ON models.number = results.model_number
LEFT JOIN labels ON labels.model_number = results.model_number
                AND labels.class_id = results.class_1
"""
# A job's images by their most likely class.
CLASSES = """
CREATE VIEW classes AS
SELECT jobs.id AS job, labels.label, class_counts.class_id, class_counts.images,
       models.title AS model
FROM class_counts
JOIN jobs ON jobs.number = class_counts.job_number
JOIN models ON models.number = class_counts.model_number
LEFT JOIN labels ON labels.model_number = class_counts.model_number
                AND labels.class_id = class_counts.class_id
"""


def upgrade() -> None:
    # `jobs` first: the new tables refer to it, and upgrading a weaker lock later could deadlock.
    op.add_column("jobs", sa.Column("paused_at", TIME, nullable=True))
    op.add_column("jobs", sa.Column("stop_at_failures", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("sampled_from", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("notify_url", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("notify_secret", sa.Text(), nullable=True))
    _create_job_tags()
    _create_class_counts()
    _create_api_keys()
    _create_notifications()
    op.execute(IMAGES.format(host=HOST[op.get_bind().dialect.name]))
    op.execute(CLASSES)
    # After `jobs`, as in a worker's transactions.
    op.add_column("tallies", sa.Column("classes", sa.JSON(), nullable=True))


def _create_job_tags() -> None:
    op.create_table(
        "job_tags",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_job_tags_job_number_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_number", "key", name="pk_job_tags"),
    )
    op.create_index("ix_job_tags_key_value", "job_tags", ["key", "value"], unique=False)


def _create_class_counts() -> None:
    op.create_table(
        "class_counts",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("model_number", sa.Integer(), nullable=False),
        sa.Column("class_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"],
            ["jobs.number"],
            name="fk_class_counts_job_number_jobs",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["model_number"], ["models.number"], name="fk_class_counts_model_number_models"
        ),
        sa.PrimaryKeyConstraint("job_number", "model_number", "class_id", name="pk_class_counts"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
    )


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        sa.UniqueConstraint("event_id", name="uq_notifications_event_id"),
    )
    waiting = sa.text("delivered_at IS NULL AND failed_at IS NULL")
    op.create_index(
        "ix_notifications_due",
        "notifications",
        ["next_attempt_at"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
