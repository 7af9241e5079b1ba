"""The message that stands for a chunk of images: from the dispatcher, through Redis, to a worker.

It travels as the keyword arguments of one Celery task, in JSON. SQL is the truth and this is
only a notice: a worker claims the chunk's generation in SQL before it runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

TASK_NAME: Final = "resnext.classify_chunk"
MESSAGE_VERSION: Final = 1
ALONE_VERSION: Final = 2
"""One image, to be run with nothing else in flight in its worker. Of a version of its own, so
that a worker which cannot do that leaves it to one that can.
"""
READ_VERSIONS: Final = (MESSAGE_VERSION, ALONE_VERSION)
PUBLISHED_AT_HEADER: Final = "published_at"
"""Message header: `chunks.published_at` of this publication, ISO 8601, the database's time."""


class UnknownMessageVersion(ValueError):
    """A newer program sent it: leave it for a newer worker."""


class MalformedMessage(ValueError):
    """No program of ours sent it."""


@dataclass(frozen=True, kw_only=True)
class ChunkMessage:
    """A chunk's images that are not settled, in one of its generations; or one of them alone."""

    job: str
    """The public id of the job."""
    job_number: int
    chunk: int
    generation: int
    positions: tuple[int, ...]
    uris: tuple[str, ...]
    version: int = MESSAGE_VERSION

    def __post_init__(self) -> None:
        if len(self.positions) != len(self.uris):
            raise MalformedMessage(
                f"chunk {self.chunk} of job {self.job}: "
                f"{len(self.positions)} positions for {len(self.uris)} URIs"
            )
        if self.alone and len(self.uris) != 1:
            raise MalformedMessage(
                f"chunk {self.chunk} of job {self.job}: {len(self.uris)} images as one alone"
            )

    @property
    def alone(self) -> bool:
        return self.version == ALONE_VERSION

    def __str__(self) -> str:
        """As people see it in Flower and in logs."""
        return (
            f"job={self.job} chunk={self.chunk} generation={self.generation} "
            f"images={len(self.uris)}{' alone' if self.alone else ''}"
        )

    def encode(self) -> dict[str, Any]:
        return asdict(self) | {"positions": list(self.positions), "uris": list(self.uris)}

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """
        Raises:
            UnknownMessageVersion: the version is none of this program's.
            MalformedMessage: fields are missing or of the wrong type.
        """
        version = fields.get("version")
        if version not in READ_VERSIONS:
            known = " and ".join(map(str, READ_VERSIONS))
            raise UnknownMessageVersion(
                f"message version {version!r}; this program reads versions {known}: "
                "upgrade the worker"
            )
        try:
            return cls(
                job=str(fields["job"]),
                job_number=int(fields["job_number"]),
                chunk=int(fields["chunk"]),
                generation=int(fields["generation"]),
                positions=tuple(int(position) for position in _list(fields["positions"])),
                uris=tuple(str(uri) for uri in _list(fields["uris"])),
                version=version,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedMessage(f"not a chunk message: {error!r}") from error


def _list(value: object) -> list[Any]:
    """A text would pass for a sequence of its characters."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value
