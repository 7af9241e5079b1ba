"""The tables: jobs, their chunks and URIs, the results, and the running processes.

A job is cut into chunks. A chunk's row changes during its life (state, generation); its URIs are in
a separate row that is never rewritten. An image is identified by job number and position, and has
one row in `results` once it is finished. Workers add `tallies`, which the dispatcher folds into
`jobs`. Of several dispatchers, the one in `leaders` leads.
The migrations create three views: `predictions` joins an image's top 5 with their labels, `images`
has a row for each finished image with its job's id and its host, `classes` counts a job's classes.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    REAL,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from contract.database.clock import UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows automatically only in a column of type INTEGER.
Number = BigInteger().with_variant(Integer(), "sqlite")

TOP = 5

jobs = Table(
    "jobs",
    metadata,
    Column("number", Number, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("key", Text),  # the submitter's idempotency key, so that a submit can be repeated
    Column("name", Text),
    Column("priority", SmallInteger, nullable=False),  # higher goes first
    # submitting running completed cancelled expired; abandoned: to be deleted piece by piece,
    # because its submit died or because of a purge
    Column("state", String(16), nullable=False),
    # The network that classifies its images. The first worker that claims one of its chunks sets
    # the digest, because a producer does not have the weights.
    Column("model", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("weights_sha256", String(64)),
    Column("precision", String(8), nullable=False),
    Column("queue", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("idle_s", Double),  # seconds between its ends and its retries; NULL: never retried
    Column("total", BigInteger, nullable=False),
    # Folded from the tallies:
    Column("classified", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("errors", JSON, nullable=False),  # {code: images}
    Column("images_per_s", Double, nullable=False),  # moving average
    Column("folded_at", UtcDateTime),
    # Digest of the images in their order, to compare with another submit or with a file.
    Column("images_digest", String(64)),
    # During its submit: when `submit` was last alive.
    Column("submit_heartbeat_at", UtcDateTime),
    Column("paused_at", UtcDateTime),  # NULL: it is not paused
    Column("stop_at_failures", Double),  # the share of failed images that stops it, 0 to 1
    Column("sampled_from", BigInteger),  # if the job is a sample: images in its sources
    # Where to send the notification of its end, and the secret that signs it.
    Column("notify_url", Text),
    Column("notify_secret", Text),
    # Folded from the tallies: its images' times by stage; see contract.stages.
    Column("stages", JSON(none_as_null=True)),
    UniqueConstraint("owner", "key"),
    Index(None, "state", "priority"),
)

job_tags = Table(
    "job_tags",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "key", "value"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("first_position", BigInteger, nullable=False),
    Column("images", SmallInteger, nullable=False),
    Column("shuffle", Integer, nullable=False),  # random: neighbours in a crawl share a host
    Column("state", String(8), nullable=False),  # contract.chunks.state.ChunkState
    Column("generation", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),  # runs that its remaining images have had
    Column("deaths", SmallInteger, nullable=False),  # workers that died while it ran
    Column("due_at", UtcDateTime, nullable=False),
    Column("published_at", UtcDateTime),
    Column("worker", Text),
    Column("remaining", LargeBinary, nullable=False),  # see contract.remaining
    Column("remaining_images", SmallInteger, nullable=False),
    # For a suspect chunk, whose images run one by one because workers have died: the offset of the
    # image that ran last, its generation, and how often each image has crashed its worker.
    Column("alone_offset", SmallInteger),
    Column("alone_generation", Integer),
    Column("crashes", JSON(none_as_null=True)),  # {offset: times}
    # Images that wait for other times: see contract.chunks.later.
    Column("later", JSON(none_as_null=True)),
    # The error in this program that the last run met; NULL: none.
    Column("fault", Text),
    # The dispatcher asks which chunks of a job are due, and which are queued or running.
    Index("ix_chunks_due", "job_number", "state", "shuffle"),
    Index("ix_chunks_out", "state", "worker"),
    # For `status` and `doctor`: which runs meet errors in this program.
    Index(
        "ix_chunks_fault",
        "job_number",
        postgresql_where=text("fault IS NOT NULL"),
        sqlite_where=text("fault IS NOT NULL"),
    ),
)

chunk_uris = Table(
    "chunk_uris",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("uris", JSON, nullable=False),  # list of str, in the order of positions
    Column("refs", JSON),  # list of str or null: the submitter's own ids
)

models = Table(
    "models",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("title", Text, nullable=False),  # what results show: resnext101_32x4d/nvidia
    Column("model", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    UniqueConstraint("model", "weights", "weights_sha256"),
)

labels = Table(
    "labels",
    metadata,
    Column(
        "model_number",
        Integer,
        ForeignKey("models.number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("class_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False, index=True),
)

results = Table(
    "results",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("uri", Text, nullable=False),
    Column("ref", Text),  # the submitter's own id for this URI
    Column("attempts", SmallInteger, nullable=False),
    Column("settled_at", UtcDateTime, nullable=False),
    Column("worker", Text),
    # A failed image:
    Column("error_code", Text),  # NULL: classified
    Column("error_detail", Text),
    # What was fetched, if anything was:
    Column("final_uri", Text),  # where redirects led; NULL: no redirect
    Column("bytes", Integer),
    Column("sha256", String(64)),
    Column("format", String(16)),
    Column("width", Integer),
    Column("height", Integer),
    # A classified image; scores are softmax probabilities, highest first:
    Column("model_number", Integer, ForeignKey("models.number")),
    Column("precision", String(8)),  # as computed: fp16, bf16 or fp32
    Column("orientation", String(8)),  # exif or ignore; NULL, from an older worker: ignore
    *(Column(f"class_{rank}", SmallInteger) for rank in range(1, TOP + 1)),
    *(Column(f"score_{rank}", REAL) for rank in range(1, TOP + 1)),
    Index(None, "model_number", "class_1"),
    # For failed images and their codes: a few rows among millions.
    Index(
        "ix_results_failed",
        "job_number",
        "error_code",
        "position",
        postgresql_where=text("error_code IS NOT NULL"),
        sqlite_where=text("error_code IS NOT NULL"),
    ),
)

tallies = Table(
    "tallies",
    metadata,
    Column("number", Number, primary_key=True),
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), nullable=False),
    Column("classified", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("errors", JSON, nullable=False),  # {code: images}
    # Images by most likely class: {model number: {class id: images}}. NULL: from an older worker.
    Column("classes", JSON(none_as_null=True)),
    Column("stages", JSON(none_as_null=True)),  # NULL: not measured, or from an older worker
    Index(None, "job_number"),
)

# Folded from the tallies: images by most likely class. The counts only grow, because a retry
# affects only failed images. If they do not add up to `jobs.classified`, an older program has
# stored or folded a part of them: see producer.jobs.classes.
class_counts = Table(
    "class_counts",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("model_number", Integer, ForeignKey("models.number"), primary_key=True),
    Column("class_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("images", BigInteger, nullable=False),
)

# Small pictures of a sample of each job, and of each class that occurs. They are deleted after some
# days. `results` has the picture's classes.
thumbnails = Table(
    "thumbnails",
    metadata,
    Column("job_number", Number, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    # The most likely class when the picture was made, to know which classes have one; NULL: none.
    Column("class_id", SmallInteger),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("jpeg", LargeBinary, nullable=False),
    Index(None, "job_number", "class_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),  # see contract.process_name
    Column("queue", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("precision", String(8), nullable=False),
    Column("version", String(32), nullable=False),
    Column("images_per_s", Double, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("heartbeat_at", UtcDateTime, nullable=False),
    Column("stopping", Boolean, nullable=False),
    Column("crashed_by", Text),  # the signal of the crash that ended it: SIGSEGV, …
)

leaders = Table(
    "leaders",
    metadata,
    Column("role", String(16), primary_key=True, autoincrement=False),  # dispatcher
    Column("holder", Text, nullable=False),  # see contract.process_name
    Column("held_at", UtcDateTime, nullable=False),
)

# Keys of the HTTP API.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),  # hash of the key, which is not stored
    Column("scopes", JSON, nullable=False),  # list of str: read, submit
    Column("owner", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# Logins to the pages, and links that log in once; see producer.pages.sessions.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),  # hash of the token, which is not stored
    Column("key_id", String(32), ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    Column("is_link", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

# Notifications to users' servers. They are not deleted with a job's row, because they may be due.
notifications = Table(
    "notifications",
    metadata,
    Column("id", Number, primary_key=True),
    Column("job_id", String(32), nullable=False),
    Column("event_id", Text, nullable=False, unique=True),  # one notification per event
    Column("url", Text, nullable=False),
    Column("secret", Text),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("failed_at", UtcDateTime),  # given up
    Column("last_error", Text),
    Index(
        "ix_notifications_due",
        "next_attempt_at",
        postgresql_where=text("delivered_at IS NULL AND failed_at IS NULL"),
        sqlite_where=text("delivered_at IS NULL AND failed_at IS NULL"),
    ),
)
