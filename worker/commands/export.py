"""`resnextq export`: writes the model in the settings for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from contract.models import title_of
from contract.settings import BATCH_IMAGES, Settings
from resnext.run.compiler import keep_compiled_in
from worker.batch.download_progress import DownloadProgress
from worker.batch.model import find_model, telling_people

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.export.write import Exported

_MEGABYTE: Final = 1_000_000


def run_export(
    settings: Settings,
    *,
    layout: Literal["onnx", "torchscript", "pt2"],
    output: Path,
    force: bool,
) -> tuple[Path, list[str]]:
    """Writes the model, and returns its folder and notes for the user.

    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
        UnavailableError: a package or a compiler is missing, or the folder cannot be written.
        UsageError: there is no such model or device, or the folder already has a model.
    """
    find_model(settings)  # before torch, which takes seconds
    keep_compiled_in(settings.cache)  # `pt2` compiles
    from resnext.export.write import export_model  # noqa: PLC0415  (loads torch)

    with telling_people(), DownloadProgress() as progress:
        exported = export_model(
            settings.model,
            layout,
            output,
            weights=settings.weights,
            precision=settings.precision,
            device=settings.device,
            cache=settings.cache,
            batch_images=settings.batch_images or BATCH_IMAGES,
            orientation=settings.orientation,
            force=force,
            progress=progress,
        )
    return exported.folder, list(_notes(exported))


def _notes(made: Exported) -> Iterator[str]:
    title, size = title_of(made.model, made.weights), made.file.stat().st_size / _MEGABYTE
    yield f"{title} in {made.precision}, {size:.1f} MB; licence of the weights: {made.licence}"
    if made.bound_to is not None:
        yield f"the model is compiled and runs only on {made.bound_to}"
    yield f"next: tritonserver --model-repository={made.folder.parent.absolute()}"
