"""Jobs, their chunks and URIs, the results, and who is at work."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself in a column of type INTEGER alone.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

RANKS = "\nUNION ALL\n".join(
    f"SELECT job_number, position, {rank} AS rank, class_{rank} AS class_id, "
    f"score_{rank} AS score FROM results WHERE class_{rank} IS NOT NULL"
    for rank in range(1, 6)
)

# One row for each of an image's top 5, so that a person can ask `WHERE label = 'tabby'`.
PREDICTIONS = f"""
CREATE VIEW predictions AS
SELECT jobs.id AS job, results.position, results.uri, results.ref, tops.rank,
       labels.label, tops.class_id, tops.score, models.title AS model
FROM results
JOIN jobs ON jobs.number = results.job_number
JOIN models ON models.number = results.model_number
JOIN ({RANKS}) AS tops
  ON tops.job_number = results.job_number AND tops.position = results.position
JOIN labels ON labels.model_number = results.model_number AND labels.class_id = tops.class_id
"""


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=True),
        sa.Column("precision", sa.String(length=8), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("classified", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("images_per_s", sa.Double(), nullable=False),
        sa.Column("folded_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("owner", "key", name="uq_jobs_owner_key"),
    )
    op.create_index("ix_jobs_state_priority", "jobs", ["state", "priority"], unique=False)
    op.create_table(
        "models",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_models"),
        sa.UniqueConstraint(
            "model", "weights", "weights_sha256", name="uq_models_model_weights_weights_sha256"
        ),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("precision", sa.String(length=8), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("images_per_s", sa.Double(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopping", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
    op.create_table(
        "chunk_uris",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("chunk", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uris", sa.JSON(), nullable=False),
        sa.Column("refs", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_number"],
            ["jobs.number"],
            name="fk_chunk_uris_job_number_jobs",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_number", "chunk", name="pk_chunk_uris"),
    )
    op.create_table(
        "chunks",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("chunk", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.SmallInteger(), nullable=False),
        sa.Column("shuffle", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("deaths", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("remaining", sa.LargeBinary(), nullable=False),
        sa.Column("remaining_images", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_chunks_job_number_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_number", "chunk", name="pk_chunks"),
    )
    op.create_index("ix_chunks_due", "chunks", ["job_number", "state", "shuffle"], unique=False)
    op.create_index("ix_chunks_out", "chunks", ["state", "worker"], unique=False)
    op.create_table(
        "labels",
        sa.Column("model_number", sa.Integer(), nullable=False),
        sa.Column("class_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_number"],
            ["models.number"],
            name="fk_labels_model_number_models",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_number", "class_id", name="pk_labels"),
    )
    op.create_index("ix_labels_label", "labels", ["label"], unique=False)
    op.create_table(
        "results",
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("final_uri", sa.Text(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("format", sa.String(length=16), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("model_number", sa.Integer(), nullable=True),
        sa.Column("precision", sa.String(length=8), nullable=True),
        sa.Column("class_1", sa.SmallInteger(), nullable=True),
        sa.Column("class_2", sa.SmallInteger(), nullable=True),
        sa.Column("class_3", sa.SmallInteger(), nullable=True),
        sa.Column("class_4", sa.SmallInteger(), nullable=True),
        sa.Column("class_5", sa.SmallInteger(), nullable=True),
        sa.Column("score_1", sa.REAL(), nullable=True),
        sa.Column("score_2", sa.REAL(), nullable=True),
        sa.Column("score_3", sa.REAL(), nullable=True),
        sa.Column("score_4", sa.REAL(), nullable=True),
        sa.Column("score_5", sa.REAL(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_results_job_number_jobs", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_number"], ["models.number"], name="fk_results_model_number_models"
        ),
        sa.PrimaryKeyConstraint("job_number", "position", name="pk_results"),
    )
    op.create_index(
        "ix_results_model_number_class_1", "results", ["model_number", "class_1"], unique=False
    )
    op.create_table(
        "tallies",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("job_number", NUMBER, nullable=False),
        sa.Column("classified", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_tallies_job_number_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_tallies"),
    )
    op.create_index("ix_tallies_job_number", "tallies", ["job_number"], unique=False)
    op.execute(PREDICTIONS)
