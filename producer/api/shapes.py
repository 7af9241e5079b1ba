"""The JSON of the API, as OpenAPI tells it. Answers are the command line's own JSON, word for word.

Requests are read by these models; answers are written straight from dictionaries, and a test holds
them against the models.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_JSON_IMAGES = 100_000
"""More of them go as a list: text/plain, text/csv, application/x-ndjson or Parquet."""

State = Literal["submitting", "running", "completed", "cancelled", "expired"]


class ImageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uri: str
    ref: str | None = Field(default=None, description="Your own id of the image.")


class Options(BaseModel):
    """What is wanted of a job, but for its images."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, description="For people; 1 to 200 characters.")
    priority: int = Field(default=0, ge=-1000, le=1000, description="Each step doubles its part.")
    expires_s: float | None = Field(
        default=None, gt=0, description="Give up what is not done after so many seconds."
    )
    model: str | None = Field(default=None, description="Instead of the server's RESNEXT_MODEL.")
    weights: str | None = Field(default=None, description="Instead of RESNEXT_WEIGHTS.")
    precision: Literal["amp", "fp32"] | None = Field(
        default=None, description="Instead of RESNEXT_PRECISION."
    )
    stop_at_failures: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Cancel the rest once this share of the images has failed, of 100 or more.",
    )

    on_invalid: Literal["stop", "skip", "record"] = Field(
        default="stop",
        description="Of lines without a URI that workers take: stop submits nothing, skip leaves "
        "them out, record makes each a failed image at its position.",
    )
    unique: bool = Field(default=False, description="Leave out URIs that have come before.")
    sample: int | None = Field(default=None, ge=1, description="So many at random.")
    notify: str | None = Field(
        default=None,
        description="A URL that gets a signed POST when the job has ended (Standard Webhooks).",
    )


class ListOptions(Options):
    """The same beside a list, as query parameters."""

    column: str | None = Field(default=None, description="With the URIs, of a table or of JSON.")
    id_column: str | None = Field(default=None, description="With your own ids.")

    tag: list[str] = Field(default_factory=list, description="`key=value`; may be repeated.")


class EditIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, description="Empty: none any more.")
    priority: int | None = Field(default=None, ge=-1000, le=1000)
    tags: dict[str, str | None] | None = Field(
        default=None, description="Added, or with another value; null takes one away."
    )


class JobIn(Options):
    tags: dict[str, str] = Field(default_factory=dict)
    uris: list[str] | None = Field(default=None, max_length=MOST_JSON_IMAGES)
    images: list[ImageIn] | None = Field(
        default=None, max_length=MOST_JSON_IMAGES, description="Instead of `uris`, with ids."
    )


class JobOut(BaseModel):
    id: str = Field(examples=["0b5f0c6a9d3e4f21"])
    name: str | None
    owner: str
    key: str | None = Field(description="Its Idempotency-Key.")
    tags: dict[str, str]
    state: State
    paused: bool
    priority: int
    model: str
    weights: str
    weights_sha256: str | None
    precision: Literal["amp", "fp32"]
    queue: str
    served: int = Field(description="Workers of its queue that live.")
    total: int
    classified: int
    failed: int
    pending: int
    images_per_s: float
    eta_s: float | None
    created_at: str
    expires_at: str | None
    finished_at: str | None
    errors: dict[str, int] = Field(description="Images by error code, the most frequent first.")
    faults: dict[str, int] = Field(description="Chunks whose last run met a fault of the program.")


class SubmittedOut(JobOut):
    notify_secret: str | None = Field(
        description="With `notify`: what its POSTs are signed with. It is told here alone."
    )


class JobsOut(BaseModel):
    jobs: list[JobOut]
    next: str | None = Field(description="The cursor of the next page; null: this is the last.")


class Guess(BaseModel):
    label: str | None = Field(examples=["tabby"])
    class_id: int
    score: float = Field(description="Softmax probability.")


class Failed(BaseModel):
    code: str = Field(examples=["http_404"])
    detail: str


class ResultOut(BaseModel):
    """`top5` of an image that is classified, `error` of one that has failed."""

    position: int
    uri: str
    ref: str | None
    status: Literal["classified", "failed"]
    top5: list[Guess] | None = None
    error: Failed | None = None
    model: str
    attempts: int
    precision: str | None = None
    orientation: str | None = None
    final_uri: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None


class ResultsOut(BaseModel):
    results: list[ResultOut]
    next: str | None = Field(description="The cursor of the next page; null: this is the last.")


class ClassOut(BaseModel):
    label: str | None
    class_id: int
    images: int
    share: float = Field(description="Of the images that are classified.")


class ClassesOut(BaseModel):
    classes: list[ClassOut] = Field(description="By the likeliest class, the most frequent first.")


class ErrorOut(BaseModel):
    code: str
    host: str | None
    images: int


class ErrorsOut(BaseModel):
    errors: list[ErrorOut] = Field(description="By code and host, the most frequent first.")


class RetryIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    errors: list[str] = Field(
        default_factory=list, description="Images with one of these codes; none named: all failed."
    )


class RetryOut(BaseModel):
    images: int = Field(description="Images that run again.")
    left: int = Field(description="Failed images whose chunks still run, or have just failed.")


class ModelOut(BaseModel):
    model: str
    weights: str
    precision: Literal["amp", "fp32"]
    queue: str
    workers: int = Field(description="That live.")


class ModelsOut(BaseModel):
    models: list[ModelOut] = Field(description="What workers that live serve, or jobs ask for.")


class WorkerOut(BaseModel):
    name: str
    queue: str
    device: str
    precision: str
    version: str
    images_per_s: float
    started_at: str
    heartbeat_at: str
    stopping: bool


class WorkersOut(BaseModel):
    workers: list[WorkerOut]


JobId = Annotated[str, Field(examples=["0b5f0c6a9d3e4f21"])]
