"""Options and arguments that several commands share, and their values."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from producer.cli import completion


class Precision(StrEnum):
    """Values of `--precision`, the same as in the setting."""

    amp = "amp"
    fp32 = "fp32"


class Format(StrEnum):
    """Values of `--format`."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class ModelFormat(StrEnum):
    """Values of `--format` of `export`."""

    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


class Invalid(StrEnum):
    """Values of `--on-invalid`, the same as in `producer.submit.check.OnInvalid`."""

    stop = "stop"
    skip = "skip"
    record = "record"


class Only(StrEnum):
    """Values of `--only`."""

    classified = "classified"
    failed = "failed"


class JobState(StrEnum):
    """Values of `--state`."""

    submitting = "submitting"
    running = "running"
    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"


JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A job: its id, the first characters of the id, its name, or `last`.",
        autocompletion=completion.jobs,
    ),
]
SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="URIs; image files, folders or patterns ('photos/**/*.jpg'); s3://bucket/prefix/; "
        "lists: text with one URI per line (and your own id after a TAB), CSV, TSV, JSON, JSONL or "
        "Parquet, also .gz and .zst; or - to read a list from standard input.",
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column that holds the URIs. Default: uri, url, image_uri or image_url.",
        show_default=False,
    ),
]
IdColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column that holds your own ids. Default: none.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Overrides RESNEXT_MODEL.",
        show_default=False,
        autocompletion=completion.models,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="Overrides RESNEXT_WEIGHTS.", show_default=False),
]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Overrides RESNEXT_PRECISION.", show_default=False)
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Overrides RESNEXT_DEVICE.", show_default=False),
]


def value_of(option: StrEnum | None) -> str | None:
    return None if option is None else option.value
