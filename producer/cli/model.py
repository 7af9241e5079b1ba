"""The commands that need only the model: classify, export. They need no database and no broker.

`producer.cli.main` registers them. The worker's modules are named in text, so that a producer can
be installed without torch.
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
        typer.Option(
            metavar="IMAGES",
            min=1,
            max=1024,
            help="Overrides RESNEXT_BATCH_IMAGES.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    fail_on_error: Annotated[
        bool, typer.Option("--fail-on-error", help="Exit with status 1 if an image failed.")
    ] = False,
) -> None:
    """Classify images now, without a queue. One line per image, in the order given.

    Files and folders on the command line need not be under RESNEXT_FILE_ROOTS; files named in a
    list must be. --json prints the objects that `results` prints.

    Settings: RESNEXT_MODEL, RESNEXT_WEIGHTS, RESNEXT_PRECISION, RESNEXT_DEVICE, RESNEXT_ENGINE,
    RESNEXT_BATCH_IMAGES, RESNEXT_FILE_ROOTS.

    Example: resnextq classify cat.jpg https://example.org/dog.png
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
        # Not sys.stdin, and never closed: Python cannot end while a thread reads sys.stdin.
        standard_input = open(0, "rb", closefd=False)  # noqa: SIM115
        ahead = 1  # the next line may take long to arrive
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
            "--format",
            help="onnx: ONNX Runtime; torchscript: LibTorch; pt2: compiled for one device.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Triton's model repository. The model gets its own folder in it."
        ),
    ],
    model: ModelOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it exists.")
    ] = False,
) -> None:
    """Export the network, not results, for NVIDIA's Triton Inference Server; print its folder.

    Input: uint8 images (N, 224, 224, 3), already cropped. Output: class ids (N, 5) and scores
    (N, 5). In fp32, or in fp16 on CUDA with amp.

    Settings: RESNEXT_MODEL, RESNEXT_WEIGHTS, RESNEXT_PRECISION, RESNEXT_DEVICE.

    Example: resnextq export --format onnx --output models/
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
