"""The commands about the model alone: classify, export. They need no database and no broker.

`producer.cli.main` registers them. The worker's modules are named in texts, so that a producer is
installed without torch.
"""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from producer.cli.environment import read_settings
from producer.cli.errors import FINISHED_WITH_FAILURES
from producer.cli.extras import find
from producer.cli.options import (
    ColumnOption,
    DeviceOption,
    IdColumnOption,
    JsonOption,
    ModelFormat,
    ModelOption,
    PrecisionOption,
    SourcesArgument,
    WeightsOption,
    value_of,
)
from producer.cli.output import tell
from producer.cli.signals import stop_cleanly_when_terminated


def classify(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    sources: SourcesArgument,
    column: ColumnOption = None,
    id_column: IdColumnOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Instead of RESNEXT_BATCH_IMAGES.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="Exit with 1 if an image failed.")
    ] = False,
) -> None:
    """Classify images here and now: a line an image, without queue and database.

    The order is that of the images. Files and folders that you name need not be under
    RESNEXT_FILE_ROOTS; those in a list do. --json: an object a line, as `results` prints it.
    """
    run = find("worker.commands.classify", "classify", needs="torch", extra="worker")
    stop_cleanly_when_terminated()
    from contract.objects import Stores
    from contract.settings import BATCH_IMAGES
    from producer.cli.render.answers import showing
    from producer.submit.sources.columns import Wanted
    from producer.submit.sources.read import STANDARD_INPUT, Reading, named_paths, read_sources

    settings = read_settings(
        model=model, weights=weights, precision=value_of(precision), batch_images=batch
    )
    ahead, standard_input = settings.loaders + (settings.batch_images or BATCH_IMAGES), None
    if STANDARD_INPUT in sources:
        # Not sys.stdin, and never closed: Python does not end while a thread reads sys.stdin.
        standard_input = open(0, "rb", closefd=False)  # noqa: SIM115
        ahead = 1  # the next line may take long to come
    reading = Reading(Wanted(column, id_column), Stores.of(settings))
    entries = read_sources(sources, standard_input, reading)
    records = run(settings, entries, named=named_paths(sources), ahead=ahead, tell=tell)
    with showing(as_json=as_json) as show, closing(records):
        failed = sum(show(record) for record in records)
    for line in reading.left_out.lines():
        tell(line)
    if failed and fail_on_error:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def export(  # noqa: PLR0913, PLR0917  (a parameter for each option)
    layout: Annotated[
        ModelFormat,
        typer.Option(
            "--format", help="For ONNX Runtime, for LibTorch, or compiled for one kind of device."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The model repository, in which the model gets a folder of its own."
        ),
    ],
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder of a model of this name.")
    ] = False,
) -> None:
    """Write the model as NVIDIA's Triton Inference Server loads it; prints its folder.

    It takes uint8 pictures (N, 224, 224, 3), cropped as the model wants them, and gives class ids
    (N, 5) and scores (N, 5). In fp32, or fp16 on CUDA with amp.
    """
    run = find("worker.commands.export", "run_export", needs="torch", extra="worker")
    stop_cleanly_when_terminated()
    settings = read_settings(
        model=model, weights=weights, precision=value_of(precision), device=device
    )
    folder, notes = run(settings, layout=layout.value, output=output, force=force)
    print(folder)
    for note in notes:
        tell(note)
