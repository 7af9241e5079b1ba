"""A job's thumbnails with their answers, in FiftyOne's import format."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine

from contract.database.engine import reading
from contract.settings import Settings
from producer.jobs.job import Job
from producer.jobs.thumbnails import Guess, Thumbnail, find_thumbnails, read_thumbnail

A_PAGE: Final = 500
BLOCK_BYTES: Final = 1_048_576


def fiftyone_archive(engine: Engine, _: Settings, job: Job) -> Iterator[bytes]:
    """A ZIP archive with `data/POSITION.jpg`, and `labels.json` with up to five labels per picture.
    The format is FiftyOneImageClassificationDataset:
    https://docs.voxel51.com/user_guide/dataset_creation/datasets.html.
    """
    with TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive, reading(engine) as connection:
            labels: dict[str, list[dict[str, Any]]] = {}
            for picture in _pictures(connection, job):
                jpeg = read_thumbnail(connection, job.id, picture.position)
                if jpeg is not None:  # the thumbnail may have expired meanwhile
                    archive.writestr(f"data/{picture.position}.jpg", jpeg)
                    labels[str(picture.position)] = [_label(picture, one) for one in picture.top5]
            packed = orjson.dumps({"labels": labels})
            archive.writestr("labels.json", packed, zipfile.ZIP_DEFLATED)
        file.seek(0)
        while block := file.read(BLOCK_BYTES):
            yield block


def _pictures(connection: Connection, job: Job) -> Iterator[Thumbnail]:
    after: int | None = None
    while page := find_thumbnails(connection, job.id, only="classified", after=after, limit=A_PAGE):
        yield from page
        after = page[-1].position


def _label(picture: Thumbnail, guess: Guess) -> dict[str, Any]:
    attributes = {"uri": picture.uri, "class_id": guess.class_id}
    if picture.ref is not None:
        attributes["ref"] = picture.ref
    return {
        "label": guess.label or f"class {guess.class_id}",
        "confidence": guess.score,
        "attributes": attributes,
    }
