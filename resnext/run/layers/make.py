"""Makes the `Chooser` for the layers of a network on a GPU.

`engine` calls it for a classifier, and `doctor --device` without one, because it needs no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from resnext.run.layers.choose import Chooser
from resnext.run.layers.cudnn import Cudnn, PaddedCudnn
from resnext.run.layers.grouped import Grouped
from resnext.run.layers.kind import Kind
from resnext.run.layers.matrix import Matrix
from resnext.run.layers.one_pass import OnePass
from resnext.run.layers.passes import Passes
from resnext.run.layers.shape import ConvShape
from resnext.run.layers.store import Store
from resnext.run.layers.timer import CudaTimer, Timer
from resnext.run.nvidia import read_driver
from resnext.run.precision import DTYPES, Precision

KINDS: Final[tuple[Kind, ...]] = (
    Cudnn(),
    PaddedCudnn(),
    Matrix(),
    Grouped(),
    OnePass(),
    Passes(),
)


def make_chooser(  # noqa: PLR0913  (what is measured, on what, and where it is kept)
    shapes: Mapping[ConvShape, int],
    *,
    network: str,
    device: torch.device,
    precision: Precision,
    cache: Path | None,
    timer: Timer | None = None,
) -> Chooser:
    """Returns the chooser.

    Args:
        shapes: how often each shape occurs in the network.
        network: the network's name.
        device: a GPU.
        precision: the precision in which it computes.
        cache: the cache's folder. None: nothing is kept.
        timer: the timer. None: CUDA's events.
    """
    kinds = [kind for kind in KINDS if any(kind.suits(shape, device) for shape in shapes)]
    about = {
        **_describe(device),
        "network": network,
        "precision": precision,
        "kinds": ", ".join(kind.name for kind in kinds),
    }
    return Chooser(
        shapes,
        dtype=DTYPES[precision],
        device=device,
        kinds=kinds,
        timer=timer or CudaTimer(device),
        store=Store(cache, about),
    )


def _describe(device: torch.device) -> dict[str, str]:
    """Everything on which a measurement depends, besides the layer."""
    gpu, driver = torch.cuda.get_device_properties(device), read_driver()
    return {
        "device": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": str(gpu.multi_processor_count),
        "driver": driver.version if driver else "unknown",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "program": _program(),
    }


def _program() -> str:
    try:
        return version("resnext-queue")
    except PackageNotFoundError:  # the program runs from its sources
        return "unknown"
