"""The message that stands for a chunk of images: from the dispatcher, through Redis, to a worker.

It travels as the keyword arguments of one Celery task, in JSON. SQL is the truth, and the message
is only a notice: a worker claims the chunk's generation in SQL before it runs anything, and then
runs what SQL says. A waiting chunk does not change within a generation, so the message need not
name its images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeVar

from contract.chunks.fence import Fence
from contract.settings import MAX_CHUNK_IMAGES
from contract.uris import MAX_URI_CHARS

TASK_NAME: Final = "resnext.classify_chunk"
MESSAGE_VERSION: Final = 1
ALONE_VERSION: Final = 2
"""One image that must run while nothing else is in flight in its worker. It has its own version, so
that a worker that cannot do this leaves it to another one.
"""
PART_VERSION: Final = 3
"""Some images of a chunk, while its others wait for another time. A program that does not know such
messages would call them malformed; because of the version it leaves them to a newer program.
"""
NOTICE_VERSION: Final = 4
"""All current images of a chunk. The message counts them but does not name them. Earlier versions
name them, with their URIs; this program no longer sends versions 1 and 3.
"""
READ_VERSIONS: Final = (MESSAGE_VERSION, ALONE_VERSION, PART_VERSION, NOTICE_VERSION)
PUBLISHED_AT_HEADER: Final = "published_at"
"""Message header: `chunks.published_at` of this publication, ISO 8601, by the database's clock."""

MAX_JOB_CHARS: Final = 32
MAX_NUMBER: Final = 2**63 - 1
MAX_SHOWN_CHARS: Final = 60

T = TypeVar("T")


class UnknownMessageVersion(ValueError):
    """A newer program sent the message: leave it for a newer worker."""


class MalformedMessage(ValueError):
    """This project cannot have sent the message."""


@dataclass(frozen=True, kw_only=True)
class ChunkMessage:
    """A chunk's current images in one generation, or one of them alone."""

    job: str
    """The public id of the job."""
    job_number: int
    chunk: int
    generation: int
    positions: tuple[int, ...] = ()
    uris: tuple[str, ...] = ()
    images: int = 0
    """The number of images, for people to read, if the message does not name them."""
    version: int = MESSAGE_VERSION

    def __post_init__(self) -> None:
        if len(self.positions) != len(self.uris):
            raise MalformedMessage(
                f"chunk {self.chunk} of job {self.job}: "
                f"{len(self.positions)} positions for {len(self.uris)} URIs"
            )
        if self.alone and len(self.uris) != 1:
            raise MalformedMessage(
                f"chunk {self.chunk} of job {self.job}: {len(self.uris)} images, expected one alone"
            )

    @property
    def fence(self) -> Fence:
        return Fence(self.job_number, self.chunk, self.generation)

    @property
    def alone(self) -> bool:
        return self.version == ALONE_VERSION

    def __str__(self) -> str:
        """The text that Flower and logs show."""
        return (
            f"job={self.job} chunk={self.chunk} generation={self.generation} "
            f"images={len(self.uris) or self.images}{' alone' if self.alone else ''}"
        )

    @property
    def logged(self) -> dict[str, str | int]:
        """Fields for log lines about this message; see `contract.log`."""
        return {"job": self.job, "chunk": self.chunk, "generation": self.generation}

    @property
    def names_images(self) -> bool:
        return self.version != NOTICE_VERSION

    def encode(self) -> dict[str, Any]:
        fields = asdict(self)
        if not self.names_images:
            del fields["positions"], fields["uris"]
            return fields
        del fields["images"]
        return fields | {"positions": list(self.positions), "uris": list(self.uris)}

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Self:
        """
        Raises:
            UnknownMessageVersion: a newer program sent the message.
            MalformedMessage: fields are missing, too large or of the wrong type.
        """
        version = _number(fields, "version")
        if version > max(READ_VERSIONS):
            known = ", ".join(map(str, READ_VERSIONS))
            raise UnknownMessageVersion(
                f"message version {version}; this program reads versions {known}: "
                "upgrade the worker"
            )
        if version not in READ_VERSIONS:
            raise MalformedMessage(f"not a chunk message: there is no version {version}")
        images: dict[str, Any]
        if version == NOTICE_VERSION:
            images = {"images": _number(fields, "images")}
        else:
            images = {
                "positions": tuple(_list(fields, "positions", int)),
                "uris": tuple(_uris(fields)),
            }
        return cls(
            job=_text(fields, "job", MAX_JOB_CHARS),
            job_number=_number(fields, "job_number"),
            chunk=_number(fields, "chunk"),
            generation=_number(fields, "generation"),
            version=version,
            **images,
        )


def _field(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = fields.get(name)
    if type(value) is not kind:  # a bool would pass for an int
        raise MalformedMessage(f"not a chunk message: {name} is {_shown(value)}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> int:
    number = _field(fields, name, int)
    if not 0 <= number <= MAX_NUMBER:
        raise MalformedMessage(f"not a chunk message: {name} is {_shown(number)}")
    return number


def _text(fields: Mapping[str, Any], name: str, most_chars: int) -> str:
    text = _field(fields, name, str)
    if len(text) > most_chars:
        raise MalformedMessage(f"not a chunk message: {name} has {len(text):,} characters")
    return text


def _list(fields: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    values: list[Any] = _field(fields, name, list)
    if len(values) > MAX_CHUNK_IMAGES:
        raise MalformedMessage(f"not a chunk message: {len(values):,} {name}")
    for value in values:
        if type(value) is not kind:
            raise MalformedMessage(f"not a chunk message: {_shown(value)} in {name}")
    return values


def _uris(fields: Mapping[str, Any]) -> list[str]:
    uris = _list(fields, "uris", str)
    longest = max(map(len, uris), default=0)
    if longest > MAX_URI_CHARS:
        raise MalformedMessage(f"not a chunk message: a URI of {longest:,} characters")
    return uris


def _shown(value: object) -> str:
    return repr(value)[:MAX_SHOWN_CHARS]
