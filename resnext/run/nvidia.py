"""What NVIDIA's driver knows of this machine's GPUs, asked without starting CUDA.

A worker chooses its GPU here before CUDA starts: a process that has started CUDA cannot change its
mind, and has a context on a GPU. `find_device` and `doctor` ask why torch sees no GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resnext.run.nvml import EXCLUSIVE_PROCESS, PROHIBITED, Nvml, NvmlError, open_nvml

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
# What people set it to where no GPU is to be used.
_HIDING: Final = frozenset({"", "-1", "none", "void", "NoDevFiles"})
_DEVICES: Final = Path("/dev")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that a process can be given: a whole one, or an instance of one that MIG divides."""

    uuid: str
    """By which `CUDA_VISIBLE_DEVICES` takes it."""
    number: int
    """Of the whole GPU, as nvidia-smi counts."""
    name: str
    whole: str
    """The UUID of the whole GPU."""
    exclusive: bool = False
    """Only one process at a time may use it: compute mode EXCLUSIVE_PROCESS."""


@dataclass(frozen=True)
class Driver:
    version: str
    gpus: tuple[Gpu, ...]
    """Those that may compute, in nvidia-smi's order."""


def read_driver() -> Driver | None:
    """None where no driver answers."""
    try:
        with open_nvml() as nvml:
            return Driver(nvml.driver_version(), tuple(_gpus(nvml)))
    except NvmlError:
        return None


def list_gpus() -> tuple[Gpu, ...]:
    """Those that this process may use, in the order of their numbers for torch.

    Where the driver does not answer: by the files in /dev, without names.
    """
    driver = read_driver()
    gpus = _by_their_files() if driver is None else driver.gpus
    shown = os.environ.get(VISIBLE)
    return gpus if shown is None else tuple(_shown(gpus, shown))


def are_hidden() -> bool:
    """Whether somebody has decided that this process uses no GPU."""
    return os.environ.get(VISIBLE, "0").strip() in _HIDING


def describe_gpus() -> str | None:
    """What shows that this machine has GPUs, as a part of a sentence; None: nothing does."""
    driver = read_driver()
    if driver is not None and driver.gpus:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in driver.gpus))
        number = "a GPU" if len(driver.gpus) == 1 else f"{len(driver.gpus)} GPUs"
        return f"the NVIDIA driver {driver.version} has {number} ({names})"
    if files := _by_their_files():
        return f"there is {_DEVICES}/nvidia{files[0].number}"
    return None


def _gpus(nvml: Nvml) -> Iterator[Gpu]:
    for number, handle in enumerate(nvml.handles()):
        mode = nvml.compute_mode(handle)
        if mode == PROHIBITED:
            continue
        name, whole = nvml.name(handle), nvml.uuid(handle)
        instances = nvml.instances(handle)
        for one in [handle] if instances is None else instances:
            yield Gpu(
                uuid=nvml.uuid(one),
                number=number,
                name=name,
                whole=whole,
                exclusive=mode == EXCLUSIVE_PROCESS,
            )


def _by_their_files() -> tuple[Gpu, ...]:
    names = [entry.name for entry in _DEVICES.glob("nvidia*")]
    numbers = sorted(int(name[6:]) for name in names if re.fullmatch(r"nvidia\d+", name))
    return tuple(
        Gpu(uuid=str(place), number=number, name="a GPU", whole=str(place))
        for place, number in enumerate(numbers)
    )


def _shown(gpus: Sequence[Gpu], shown: str) -> Iterator[Gpu]:
    """As CUDA reads the variable: in its order, until the first word that names no GPU."""
    for word in map(str.strip, shown.split(",")):
        named = [gpu for gpu in gpus if _is_named(gpu, word)]
        if not named:
            return
        yield from named


def _is_named(gpu: Gpu, word: str) -> bool:
    """By its number, or by how its UUID begins."""
    if word.isdecimal():
        return gpu.number == int(word)
    return bool(word) and (gpu.uuid.startswith(word) or gpu.whole.startswith(word))
