"""Options and arguments that several commands have, and the values that they take."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Precision(StrEnum):
    """What `--precision` takes; the same as the setting."""

    amp = "amp"
    fp32 = "fp32"


class Format(StrEnum):
    """What `--format` takes."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class ModelFormat(StrEnum):
    """What `--format` of `export` takes."""

    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


class Invalid(StrEnum):
    """What `--on-invalid` takes; the same as `producer.submit.check.OnInvalid`."""

    stop = "stop"
    skip = "skip"
    record = "record"


class Only(StrEnum):
    """What `--only` takes."""

    classified = "classified"
    failed = "failed"


class JobState(StrEnum):
    """What `--state` takes."""

    submitting = "submitting"
    running = "running"
    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"


JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or the first characters of it.")
]
SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="URIs, folders of images, image files, patterns for them ('photos/**/*.jpg'), "
        "s3://bucket/prefix/, lists (text with a URI a line and after a TAB an id of your own, "
        "CSV, TSV, JSON, JSONL, Parquet; .gz and .zst too), or - for a list on standard input.",
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column with the URIs. Default: uri, url, image_uri or image_url.",
        show_default=False,
    ),
]
IdColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column with ids of your own. Default: none.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_MODEL.", show_default=False)
]
WeightsOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_WEIGHTS.", show_default=False)
]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Instead of RESNEXT_PRECISION.", show_default=False)
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Instead of RESNEXT_DEVICE.", show_default=False)
]


def value_of(option: StrEnum | None) -> str | None:
    return None if option is None else option.value
