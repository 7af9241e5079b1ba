"""Exports a model for NVIDIA's Triton Inference Server, from pixels to classes in one file.

`export_model` loads a model like `load_classifier`. It writes the plain network with folded
batch-norms, followed by the choice of the best classes. The folder appears only when complete.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec as find_package
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from resnext.errors import ExportUnavailable
from resnext.export.triton import (
    BACKENDS,
    CONFIGURATION,
    LABELS,
    VERSION,
    Format,
    Kind,
    configure,
    count_classes,
    publishing,
)
from resnext.load import Loaded, load_network
from resnext.picture.orientation import Orientation
from resnext.picture.preprocess import Preprocessing
from resnext.run.engine import PixelsToLogits, prepare
from resnext.run.precision import Precision, find_device
from resnext.spec.catalogue import find_spec
from resnext.spec.model import ModelSpec
from resnext.weights.download import Progress

# The graph is traced with two pictures. With one, torch.export would make the batch a constant.
EXAMPLE_IMAGES: Final = 2
# The most that our settings allow. With a bound that keeps every activation below 2**31 numbers,
# AOTInductor can compute indices in 32 bits.
MOST_IMAGES: Final = 1024

Rank = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(N, classes) probabilities, K → the K best scores and their class ids, (N, K) each."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model in Triton's repository."""

    folder: Path
    file: Path
    model: str
    weights: str
    licence: str
    precision: Precision
    bound_to: str | None
    """The only device on which it runs; None if it runs wherever Triton runs."""


class PixelsToTop(nn.Module):
    """(N, crop, crop, 3) uint8 → class ids (N, K) int64 and scores (N, K) float32.

    They are the same as the classifier's: softmax in float32, the most likely first, and with equal
    scores the lower class id first. If the network's scores are not finite, these are NaN.
    """

    def __init__(self, logits: PixelsToLogits, best: int, rank: Rank) -> None:
        super().__init__()
        self.logits = logits
        self._best = best
        self._rank = rank

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        scores, class_ids = self._rank(self.logits(pixels).softmax(dim=1), self._best)
        return class_ids, scores


def export_model(  # noqa: PLR0913  (all but the first three have one obvious value)
    model: str,
    layout: Format,
    output: Path,
    *,
    weights: str | None = None,
    precision: Literal["amp", "fp32"] = "amp",
    device: str = "auto",
    cache: Path | None = None,
    batch_images: int = 32,
    orientation: Orientation = "ignore",
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes `output`/<name of the model>, or nothing.

    Args:
        model: a name that `find_spec` knows, or the path of a JSON file (see `own_spec`).
        layout: `onnx`, `torchscript`, or `pt2`, which is compiled for the device.
        output: the model repository. It is created if it does not exist.
        weights: a name that the model knows, `random`, or a path. None: the model's default.
        precision: `fp32`, or `amp`: fp16 on CUDA, and fp32 on a CPU.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache: the folder for downloaded weights. None: `~/.cache/resnext-queue`.
        batch_images: the most images that Triton joins into one batch, 1 to 1024.
        orientation: what the notes say about EXIF. The file itself only takes pixels.
        force: replace a model with this name.
        progress: called during a download.

    Raises:
        UnknownModelError, BadSpec, WeightsError, DeviceError, ExportError: see `resnext.errors`.
    """
    _check_tools(layout)
    spec, found, backend = find_spec(model), find_device(device), BACKENDS[layout]
    with publishing(output, spec.name, force=force) as folder:
        loaded = load_network(spec, weights, cache, progress)
        computed = _choose_precision(precision, found)
        module = prepare(loaded.network, spec.preprocessing, found, computed)
        (folder / VERSION).mkdir()
        write_graph(module, spec, layout, folder / VERSION / backend.file_name)
        bound_to = _describe(found) if layout == "pt2" else None
        (folder / LABELS).write_text("".join(f"{label}\n" for label in spec.categories), "utf-8")
        text = configure(
            spec,
            backend,
            batch_images=batch_images,
            kind=_kind_of(found) if layout == "pt2" else None,
            notes=_notes(spec, loaded, computed, orientation, bound_to),
        )
        (folder / CONFIGURATION).write_text(text, "utf-8")
    return Exported(
        folder=output / spec.name,
        file=output / spec.name / VERSION / backend.file_name,
        model=spec.name,
        weights=loaded.weights,
        licence=loaded.licence,
        precision=computed,
        bound_to=bound_to,
    )


def write_graph(module: PixelsToLogits, spec: ModelSpec, layout: Format, path: Path) -> None:
    """Writes the network, which must not be fused, with the choice of the best classes.

    Raises:
        ExportUnavailable: the compiler for `pt2` fails.
    """
    rank = rank_by_topk if layout == "onnx" else rank_by_sort
    graph = PixelsToTop(module, count_classes(spec), rank).eval()
    size = spec.preprocessing.crop
    pixels = torch.zeros((EXAMPLE_IMAGES, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        _WRITERS[layout](graph, pixels.to(module.mean.device), path)


def rank_by_sort(probabilities: Tensor, best: int) -> tuple[Tensor, Tensor]:
    """Uses a stable sort, which keeps the lower class id first. torch.topk returns ties anyhow."""
    scores, class_ids = probabilities.sort(dim=1, descending=True, stable=True)
    return scores[:, :best].contiguous(), class_ids[:, :best].contiguous()


def rank_by_topk(probabilities: Tensor, best: int) -> tuple[Tensor, Tensor]:
    """Uses topk, for ONNX. ONNX has no stable sort, but its TopK puts the lower index first
    (onnx.ai, TopK).
    """
    scores, class_ids = probabilities.topk(best, dim=1)
    return scores, class_ids


def _write_onnx(graph: PixelsToTop, pixels: Tensor, path: Path) -> None:
    names = BACKENDS["onnx"]
    program = torch.onnx.export(
        _capture(graph, pixels),
        dynamo=True,
        input_names=[names.pixels],
        output_names=[names.class_ids, names.scores],
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export returned no program")
    for node in program.model.graph:
        node.metadata_props.clear()  # they have source paths of this machine
    # All in one file, because Triton reads no other. The largest of these models has 330 MB.
    program.save(path, external_data=False)


def _write_torchscript(graph: PixelsToTop, pixels: Tensor, path: Path) -> None:
    with _deprecated_torchscript():
        torch.jit.save(torch.jit.trace(graph, (pixels,), check_trace=False), path)


def _write_pt2(graph: PixelsToTop, pixels: Tensor, path: Path) -> None:
    program = _capture(graph, pixels)
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))  # noqa: SLF001  (documented so)
    except RuntimeError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportUnavailable(f"The format pt2 cannot be compiled here: {reason[0]}") from error


_WRITERS: Final[Mapping[Format, Callable[[PixelsToTop, Tensor, Path], None]]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "pt2": _write_pt2,
}


def _capture(graph: PixelsToTop, pixels: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    return torch.export.export(graph, (pixels,), dynamic_shapes=({0: batch},))


@contextmanager
def _deprecated_torchscript() -> Iterator[None]:
    """Hides the warnings that TorchScript is deprecated. Many Triton servers run it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        yield


def _check_tools(layout: Format) -> None:
    """Checks for packages and compilers before anything is loaded."""
    if layout == "onnx":
        for package in ("onnx", "onnxscript"):
            if find_package(package) is None:
                raise ExportUnavailable(
                    f"The format onnx needs {package}, which is not installed. "
                    "Install it with: pip install '.[worker,export]' in the project's folder"
                )
    compiler = os.environ.get("CXX") or "g++"
    if layout == "pt2" and shutil.which(compiler) is None:
        raise ExportUnavailable(
            f"The format pt2 needs a C++ compiler, but {compiler} was not found. Install g++, or "
            "set the variable CXX to another compiler."
        )


def _choose_precision(asked: str, device: torch.device) -> Precision:
    """On a CPU `amp` is fp32: ONNX Runtime has no convolution in bf16 there."""
    return "fp16" if asked == "amp" and device.type == "cuda" else "fp32"


def _kind_of(device: torch.device) -> Kind:
    return "KIND_GPU" if device.type == "cuda" else "KIND_CPU"


def _describe(device: torch.device) -> str:
    """The kind of device that a compiled file needs."""
    if device.type == "cpu":
        return f"a CPU with {torch.backends.cpu.get_cpu_capability()}"
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return f"a GPU like {name} (compute capability {major}.{minor})"


def _notes(
    spec: ModelSpec,
    loaded: Loaded,
    precision: Precision,
    orientation: Orientation,
    bound_to: str | None,
) -> Iterator[str]:
    weights = Path(loaded.weights).name  # without the folder, which is private to this machine
    yield f"{spec.name} with the weights {weights} (licence: {loaded.licence}), in {precision}."
    yield f"SHA-256 of the weights: {loaded.sha256}. Written with torch {torch.__version__}."
    yield f"Pixels: RGB, {_preparation(spec.preprocessing, orientation)}."
    if bound_to is not None:
        yield f"Compiled: it runs only on {bound_to}."


def _preparation(preprocessing: Preprocessing, orientation: Orientation) -> str:
    """The preparation of a picture before the file gets its pixels."""
    exif = {
        "ignore": "as they are stored (an orientation in EXIF is ignored)",
        "exif": "turned as the orientation in EXIF says",
    }[orientation]
    crop, filter_ = preprocessing.crop, preprocessing.interpolation
    return f"{exif}, short side {preprocessing.resize} ({filter_}), centre {crop}x{crop}"
