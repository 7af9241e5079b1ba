"""Turns a request into a job's options and images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
from pydantic import ValidationError

from contract.errors import SourceError
from contract.models import default_weights
from contract.settings import Settings
from producer.api.bodies import Body
from producer.api.keys import Key
from producer.api.problems import Refused
from producer.api.shapes import JobIn, ListOptions
from producer.submit.check import OnInvalid
from producer.submit.intake import Intake
from producer.submit.options import read_tags
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Entry, Image
from producer.submit.sources.read import Reading, read_given
from producer.submit.submission import Order

JSON_TYPES: Final = frozenset({"", "application/json"})
# The first bytes of a list decide how it is read, not its type. Compressed lists are decompressed.
LIST_TYPES: Final = (
    "text/plain",
    "text/csv",
    "text/tab-separated-values",
    "application/x-ndjson",
    "application/vnd.apache.parquet",
    "application/gzip",
    "application/zstd",
    "application/octet-stream",
)
BODY: Final = "body"
"""The name of the list in messages."""


def read_json(body: Body) -> JobIn:
    """Reads a submit in JSON.

    Raises:
        Refused: the body is not JSON, or has another shape.
        SourceError: it has neither or both of `uris` and `images`.
    """
    try:
        wanted = JobIn.model_validate(orjson.loads(body.file.read()))
    except orjson.JSONDecodeError as error:
        raise Refused(422, f"The body is not valid JSON: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, f"{where}: {first['msg']}.") from error
    if (wanted.uris is None) == (wanted.images is None):
        given = "both" if wanted.uris is not None else "neither"
        raise SourceError(f"The body has {given} of `uris` and `images`. Send one of them.")
    return wanted


def images_of(wanted: JobIn) -> Iterator[Entry]:
    if wanted.uris is not None:
        for n, uri in enumerate(wanted.uris):
            yield Entry(uri, None, f"uris[{n}]", 0)
    for n, image in enumerate(wanted.images or ()):
        yield Entry(image.uri, image.ref, f"images[{n}]", 0)


def images_of_list(body: Body, options: ListOptions) -> Iterator[Image]:
    """The images of a list.

    Raises:
        Refused: the body has another media type.
        SourceError: the body is not a list.
    """
    if body.media_type not in LIST_TYPES:
        taken = ", ".join(("application/json", *LIST_TYPES))
        raise Refused(415, f"The body has the type {body.media_type!r}. Send one of: {taken}.")
    reading = Reading(Wanted(options.column, options.id_column))
    return read_given(body.file, BODY, reading)


def intake_of(wanted: JobIn | ListOptions) -> Intake:
    """How the request wants images to be taken.

    Raises:
        UsageError: a value is invalid.
    """
    return Intake(
        on_invalid=OnInvalid(wanted.on_invalid), unique=wanted.unique, sample=wanted.sample
    )


def order_of(
    settings: Settings, wanted: JobIn | ListOptions, key: Key, idempotency_key: str | None
) -> Order:
    """What the request asks of its job.

    Raises:
        UsageError: a value is invalid.
    """
    asked: dict[str, Any] = {
        name: value
        for name in ("model", "weights", "precision")
        if (value := getattr(wanted, name)) is not None
    }
    if "model" in asked and "weights" not in asked:  # weights belong to a model
        asked["weights"] = default_weights(asked["model"])
    tags = read_tags(wanted.tag) if isinstance(wanted, ListOptions) else wanted.tags
    return Order.of(
        settings.model_copy(update=asked),
        name=wanted.name,
        key=idempotency_key,
        priority=wanted.priority,
        expires_s=wanted.expires_s,
        owner=key.owner,
        tags=tags,
        stop_at_failures=wanted.stop_at_failures,
        notify=wanted.notify,
    )
