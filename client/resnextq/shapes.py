"""The server's answers as dataclasses. Fields that a newer server adds are in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class _Shape:
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """The server's JSON, unchanged."""

    @classmethod
    def of(cls, told: Mapping[str, Any], **read: Any) -> Self:  # noqa: ANN401  (any field's type)
        """`read` has the fields that need conversion from JSON."""
        names = {one.name for one in fields(cls)} - {"raw"}
        return cls(**{name: told.get(name) for name in names} | read, raw=told)


@dataclass(frozen=True, kw_only=True)
class JobStatus(_Shape):
    """A job at one moment; its counts are exact."""

    id: str
    name: str | None
    owner: str
    key: str | None
    tags: Mapping[str, str]
    state: str
    """`submitting`, `running`, `completed`, `cancelled` or `expired`."""
    paused: bool
    priority: int
    model: str
    weights: str
    weights_sha256: str | None
    precision: str
    queue: str
    served: int
    """Number of live workers on its queue."""
    total: int
    classified: int
    failed: int
    pending: int
    images_per_s: float
    eta_s: float | None
    created_at: datetime
    expires_at: datetime | None
    finished_at: datetime | None
    errors: Mapping[str, int]
    """Number of images by error code, most frequent first."""
    faults: Mapping[str, int]

    @property
    def is_finished(self) -> bool:
        """Whether no image is left to wait for."""
        return self.state == "completed" or (
            self.state in ("cancelled", "expired") and self.finished_at is not None
        )

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        times = ("created_at", "expires_at", "finished_at")
        return cls.of(told, **{name: _moment(told.get(name)) for name in times})


@dataclass(frozen=True, kw_only=True)
class Guess(_Shape):
    label: str | None
    class_id: int
    score: float
    """A softmax probability."""


@dataclass(frozen=True, kw_only=True)
class Failure(_Shape):
    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Result(_Shape):
    """The result of one image."""

    position: int
    """Its place in the submit, from 0."""
    uri: str
    ref: str | None
    """Your own id for it."""
    status: str
    """`classified` or `failed`."""
    top5: tuple[Guess, ...]
    """Most likely class first; empty if the image failed."""
    error: Failure | None
    model: str
    attempts: int
    precision: str | None
    orientation: str | None
    final_uri: str | None
    bytes: int | None
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        return cls.of(told, **_answer(told))


@dataclass(frozen=True, kw_only=True)
class Thumbnail(_Shape):
    """An image that has a thumbnail, with its result."""

    position: int
    uri: str
    ref: str | None
    status: str
    """`classified` or `failed`."""
    top5: tuple[Guess, ...]
    """Most likely class first; empty if the image failed."""
    error: Failure | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        return cls.of(told, **_answer(told))


@dataclass(frozen=True, kw_only=True)
class ClassCount(_Shape):
    label: str | None
    class_id: int
    images: int
    share: float


@dataclass(frozen=True, kw_only=True)
class ErrorCount(_Shape):
    code: str
    host: str | None
    """None for files."""
    images: int


@dataclass(frozen=True, kw_only=True)
class Retried(_Shape):
    images: int
    """Images that run again."""
    left: int
    """Failed images that were not retried: they have just failed, or their chunks still run."""


def _answer(told: Mapping[str, Any]) -> dict[str, Any]:
    error = told.get("error")
    return {
        "top5": tuple(map(Guess.of, told.get("top5") or ())),
        "error": None if error is None else Failure.of(error),
    }


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
