"""The JSON shapes of the API for OpenAPI. Answers are the same JSON as the command line's.

Requests are read by these models. Answers are written directly from dictionaries, and a test
compares them with the models.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_JSON_IMAGES = 100_000
"""Larger jobs are sent as a list: text/plain, text/csv, application/x-ndjson or Parquet."""

State = Literal["submitting", "running", "completed", "cancelled", "expired"]


class ImageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uri: str
    ref: str | None = Field(default=None, description="Your own id of the image.")


class Options(BaseModel):
    """A job's options without its images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str | None = Field(default=None, description="For people; 1 to 200 characters.")
    priority: int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="Higher runs sooner. Each step doubles the job's share of the workers.",
    )
    expires_s: float | None = Field(
        default=None,
        gt=0,
        description="Time limit in seconds. Images not done by then get the code `expired`.",
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
        description=(
            "Cancel the rest once this share of the finished images has failed, from 100 "
            "finished images on."
        ),
    )

    on_invalid: Literal["stop", "skip", "record"] = Field(
        default="stop",
        description=(
            "Lines that workers would refuse: stop submits nothing, skip leaves them out, "
            "record stores each as a failed image at its position."
        ),
    )
    unique: bool = Field(default=False, description="Take only the first image with each URI.")
    sample: int | None = Field(
        default=None, ge=1, description="Take only this many images, at random."
    )
    notify: str | None = Field(
        default=None,
        description="URL that gets a signed POST when the job has ended (Standard Webhooks).",
    )


class ListOptions(Options):
    """The same options beside a list, as query parameters."""

    column: str | None = Field(
        default=None, description="Column with the URIs, of a table or of JSON."
    )
    id_column: str | None = Field(default=None, description="Column with your own ids.")

    tag: list[str] = Field(default_factory=list, description="`key=value`; may be repeated.")


class EditIn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = Field(default=None, description="An empty text removes the name.")
    priority: int | None = Field(default=None, ge=-1000, le=1000)
    tags: dict[str, str | None] | None = Field(
        default=None, description="Tags to add or change; null removes a tag."
    )


class JobIn(Options):
    model_config = ConfigDict(strict=True)  # JSON has types, a query has only texts

    tags: dict[str, str] = Field(default_factory=dict)
    uris: list[str] | None = Field(default=None, max_length=MOST_JSON_IMAGES)
    images: list[ImageIn] | None = Field(
        default=None, max_length=MOST_JSON_IMAGES, description="Instead of `uris`, with ids."
    )


class JobOut(BaseModel):
    id: str = Field(examples=["0b5f0c6a9d3e4f21"])
    name: str | None
    owner: str
    key: str | None = Field(description="The job's Idempotency-Key.")
    tags: dict[str, str]
    state: State
    paused: bool
    priority: int
    model: str
    weights: str
    weights_sha256: str | None
    precision: Literal["amp", "fp32"]
    queue: str
    served: int = Field(description="Live workers that serve the job's queue.")
    total: int
    classified: int
    failed: int
    pending: int
    images_per_s: float
    eta_s: float | None
    took_s: float | None = Field(
        description="Seconds from the submit to the end, without those between an end and a retry."
    )
    created_at: str
    expires_at: str | None
    finished_at: str | None
    errors: dict[str, int] = Field(description="Images by error code, the most frequent first.")
    faults: dict[str, int] = Field(
        description="Number of chunks whose last run met a fault of the program, by fault."
    )


class SubmittedOut(JobOut):
    notify_secret: str | None = Field(
        description="With `notify`: the secret that signs its POSTs. It is shown only here."
    )


class JobsOut(BaseModel):
    jobs: list[JobOut]
    next: str | None = Field(description="Cursor of the next page. null: this is the last page.")


class Guess(BaseModel):
    label: str | None = Field(examples=["tabby"])
    class_id: int
    score: float = Field(description="Softmax probability.")


class Failed(BaseModel):
    code: str = Field(examples=["http_404"])
    detail: str


class ResultOut(BaseModel):
    """`top5` of a classified image, `error` of a failed one."""

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
    next: str | None = Field(description="Cursor of the next page. null: this is the last page.")


class ThumbnailOut(BaseModel):
    """`top5` of a classified image, `error` of a failed one."""

    position: int
    uri: str
    ref: str | None
    status: Literal["classified", "failed"]
    top5: list[Guess] | None = None
    error: Failed | None = None


class ThumbnailsOut(BaseModel):
    thumbnails: list[ThumbnailOut]
    next: str | None = Field(description="Cursor of the next page. null: this is the last page.")


class ClassOut(BaseModel):
    label: str | None
    class_id: int
    images: int
    share: float = Field(description="Share of the classified images.")


class ClassesOut(BaseModel):
    classes: list[ClassOut] = Field(description="By top class, the most frequent first.")


class ErrorOut(BaseModel):
    code: str
    host: str | None
    images: int


class ErrorsOut(BaseModel):
    errors: list[ErrorOut] = Field(description="By code and host, the most frequent first.")


class UploadedOut(BaseModel):
    images: list[ImageIn] = Field(
        description="In the order of the files, with their names as ids, for `POST /v1/jobs`."
    )


class RetryIn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    errors: list[str] = Field(
        default_factory=list,
        description="Error codes of the images to retry. Empty: all failed images.",
    )


class RetryOut(BaseModel):
    images: int = Field(description="Images that run again.")
    left: int = Field(
        description=(
            "Failed images that do not run again: their chunks still run, or they have just failed "
            "again."
        )
    )


class ModelOut(BaseModel):
    model: str
    weights: str
    precision: Literal["amp", "fp32"]
    queue: str
    workers: int = Field(description="Number of live workers.")


class ModelsOut(BaseModel):
    models: list[ModelOut] = Field(
        description="Models that live workers serve or that jobs ask for."
    )


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
