"""Loads a network with its weights: random, bundled, downloaded, or the user's own.

`load_classifier` and `export_model` start here. The network is as it was trained, on the CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import UnknownWeights
from resnext.network import ResNeXt, build_network
from resnext.spec.model import RANDOM, LocalWeights, ModelSpec, PublishedWeights
from resnext.weights.download import Progress, download
from resnext.weights.file import fill_network, read_weights
from resnext.weights.pin import pin
from resnext.weights.random import draw_weights


@dataclass(frozen=True, kw_only=True)
class Loaded:
    network: ResNeXt
    weights: str
    """The name or path by which they were requested."""
    sha256: str
    licence: str


def load_network(
    spec: ModelSpec,
    weights: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Loads a network with its weights.

    Args:
        spec: the network's spec.
        weights: a name that the model knows, `random`, or a path. None: the model's default.
        cache: the folder for downloaded weights. None: `~/.cache/resnext-queue`.
        progress: called during a download.

    Raises:
        WeightsError: see `resnext.errors`.
    """
    name = weights or spec.weights_names[0]
    network = build_network(spec)
    if name == RANDOM:
        sha256, licence = draw_weights(network, spec), "none: drawn, not trained"
        return Loaded(network=network, weights=name, sha256=sha256, licence=licence)
    file = spec.weights.get(name)
    if file is None:
        path, licence = _path_of(name, spec), "your own"
        tensors, sha256 = read_weights(path)
    elif isinstance(file, LocalWeights):
        path, licence = file.path, file.licence
        tensors, sha256 = read_weights(path, sha256=file.sha256)
    else:
        path, licence = (
            download(file, (cache or default_cache()) / "weights", progress),
            file.licence,
        )
        tensors, sha256 = read_weights(
            path, sha256=file.sha256, size_bytes=file.size_bytes, pinned=True
        )
    fill_network(network, tensors, path)
    if isinstance(file, PublishedWeights):
        pin(path, sha256)  # only after it has loaded
    return Loaded(network=network, weights=name, sha256=sha256, licence=licence)


def default_cache() -> Path:
    """The user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnext-queue"


def _path_of(weights: str, spec: ModelSpec) -> Path:
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise UnknownWeights(
            f"Weights {weights!r} are neither a name that {spec.name} knows "
            f"({', '.join(spec.weights_names)}) nor a file: {path} does not exist."
        )
    return path
