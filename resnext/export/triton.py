"""The folder that NVIDIA's Triton Inference Server loads: configuration, labels and a file.

`export` writes the file and describes it here. The layout follows Triton's
docs/user_guide/model_repository.md, the configuration its model_configuration.md, and the names of
PyTorch's inputs and outputs the README.md of its pytorch_backend.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Final, Literal

from resnext.errors import ExportError, ExportUnavailable
from resnext.spec.model import ModelSpec

Format = Literal["onnx", "torchscript", "pt2"]
Kind = Literal["KIND_CPU", "KIND_GPU"]

VERSION: Final = "1"
CONFIGURATION: Final = "config.pbtxt"
LABELS: Final = "labels.txt"
CLASSES: Final = 5
"""The most classes in an answer."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The part of Triton that runs a format, and the names that it needs."""

    name: str
    platform: str
    file_name: str
    pixels: str = "INPUT__0"
    class_ids: str = "OUTPUT__0"
    scores: str = "OUTPUT__1"


BACKENDS: Final[Mapping[Format, Backend]] = {
    "onnx": Backend(
        name="onnxruntime",
        platform="onnxruntime_onnx",
        file_name="model.onnx",
        pixels="pixels",
        class_ids="class_ids",
        scores="scores",
    ),
    "torchscript": Backend(name="pytorch", platform="pytorch_libtorch", file_name="model.pt"),
    "pt2": Backend(name="pytorch", platform="torch_aoti", file_name="model.pt2"),
}


def count_classes(spec: ModelSpec) -> int:
    """The number of classes in an answer of this model."""
    return min(CLASSES, len(spec.categories))


def configure(
    spec: ModelSpec,
    backend: Backend,
    *,
    batch_images: int,
    kind: Kind | None,
    notes: Iterable[str],
) -> str:
    """Returns the text of `config.pbtxt`.

    Args:
        spec: the model's spec.
        backend: the backend for its format.
        batch_images: the most images that Triton joins into one batch.
        kind: the only kind of device on which it runs. None: Triton decides.
        notes: notes for people, each on a line.
    """
    size, best = spec.preprocessing.crop, count_classes(spec)
    comments = "".join(f"# {' '.join(note.split())}\n" for note in notes)
    instances = "" if kind is None else f"instance_group [ {{ kind: {kind} }} ]\n"
    return f"""{comments}name: {json.dumps(spec.name)}
backend: "{backend.name}"
platform: "{backend.platform}"
max_batch_size: {batch_images}
input [
  {{
    name: "{backend.pixels}"
    data_type: TYPE_UINT8
    format: FORMAT_NHWC
    dims: [ {size}, {size}, 3 ]
  }}
]
output [
  {{
    name: "{backend.class_ids}"
    data_type: TYPE_INT64
    dims: [ {best} ]
    label_filename: "{LABELS}"
  }},
  {{
    name: "{backend.scores}"
    data_type: TYPE_FP32
    dims: [ {best} ]
  }}
]
dynamic_batching {{ }}
{instances}"""


@contextmanager
def publishing(repository: Path, name: str, *, force: bool) -> Iterator[Path]:
    """Yields an empty folder. When the block succeeds, it becomes `repository`/`name`.

    Raises:
        ExportError: the name is taken, and must not be replaced.
        ExportUnavailable: a folder cannot be written.
    """
    target = repository / name
    try:
        _check_free(target, force=force)
        # Not beside the target, because a running Triton loads every folder that it finds there.
        with TemporaryDirectory(prefix="resnextq-export-") as temporary:
            made = Path(temporary) / name
            made.mkdir()
            yield made
            _put(made, target, force=force)
    except OSError as error:
        where = error.filename2 or error.filename or target
        raise ExportUnavailable(f"{where} cannot be written: {error.strerror or error}.") from error


def _check_free(target: Path, *, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / CONFIGURATION).is_file():
        raise ExportError(
            f"{target} exists and is not a Triton model. Choose another folder for the export."
        )
    if not force:
        raise ExportError(
            f"{target} already exists. Choose another folder, or replace it with --force."
        )


def _put(made: Path, target: Path, *, force: bool) -> None:
    """Moves the folder. Copies it first, because it may be on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = token_hex(4)
    copied, old = (target.with_name(f".{target.name}.{what}-{suffix}") for what in ("new", "old"))
    try:
        shutil.copytree(made, copied)
        _check_free(target, force=force)  # once more, because much time has passed
        if target.exists():
            target.rename(old)
        try:
            copied.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(copied, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
