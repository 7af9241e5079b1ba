"""Writes a job to one file: its report, or its answers in another program's import format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
from sqlalchemy import Engine

from contract.errors import UsageError
from contract.settings import Settings
from producer.jobs.export.rows import Vocabulary, record_of
from producer.jobs.export.sinks import Target, target_of
from producer.jobs.export.window import POSITIONS, Windows
from producer.jobs.job import Job
from producer.pages.fiftyone import fiftyone_archive
from producer.pages.report import make_report


def write_report(engine: Engine, settings: Settings, job: Job, form: str, output: str) -> None:
    """Writes the file `output`, which may be an object. It appears only when it is complete.

    Raises:
        UsageError: `output` is a folder, or a URL with another scheme.
        UnavailableError: the file cannot be written.
    """
    target = target_of(output, settings)
    if not isinstance(target, Target):
        raise UsageError(f"--output is {output!r}, a folder. Name a file.")
    with target.place.writing(target.name) as file:
        for block in FORMS[form](engine, settings, job):
            file.write(block)


def _html(engine: Engine, settings: Settings, job: Job) -> Iterator[bytes]:
    yield make_report(engine, job, settings.lease_s).encode()


def _label_studio(engine: Engine, _: Settings, job: Job) -> Iterator[bytes]:
    """Label Studio's tasks with predictions, for `<Image name="image" value="$image"/>` and
    `<Choices name="label" toName="image">`. See https://labelstud.io/guide/predictions.
    """
    separator = b"[\n"
    for records in _classified(engine, job):
        for record in records:
            yield separator + orjson.dumps(_task(record))
            separator = b",\n"
    yield b"\n]\n" if separator == b",\n" else b"[]\n"


def _task(record: dict[str, Any]) -> dict[str, Any]:
    best = record["top5"][0]
    choice = {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [_name(best)]},
    }
    data = {"image": record["uri"], "position": record["position"], "top5": record["top5"]}
    if "ref" in record:
        data["ref"] = record["ref"]
    prediction = {"model_version": record["model"], "score": best["score"], "result": [choice]}
    return {"data": data, "predictions": [prediction]}


def _classified(engine: Engine, job: Job) -> Iterator[list[dict[str, Any]]]:
    vocabulary = Vocabulary(engine, job)
    windows = Windows(engine, job.number)
    for start in range(0, job.total, POSITIONS):
        records = (record_of(row, vocabulary) for row in windows.read(start, start + POSITIONS))
        yield [record for record in records if record["status"] == "classified"]


def _name(guess: dict[str, Any]) -> str:
    return guess["label"] or f"class {guess['class_id']}"


FORMS: Final[dict[str, Callable[[Engine, Settings, Job], Iterator[bytes]]]] = {
    "html": _html,
    "label-studio": _label_studio,
    "fiftyone": fiftyone_archive,
}
