"""Asks NVIDIA's driver about this machine's GPUs, without starting CUDA.

A worker chooses its GPU here before CUDA starts, because after that the process has a context on a
GPU and cannot change it. `find_device` and `doctor` use it to explain why torch sees no GPU.
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
# Values by which people hide all GPUs.
_HIDING: Final = frozenset({"", "-1", "none", "void", "NoDevFiles"})
_DEVICES: Final = Path("/dev")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that a process can use: a whole GPU, or an instance of one that MIG divides."""

    uuid: str
    """Its name for `CUDA_VISIBLE_DEVICES`."""
    number: int
    """The number of the whole GPU, as in nvidia-smi."""
    name: str
    whole: str
    """The UUID of the whole GPU."""
    exclusive: bool = False
    """Whether only one process at once may use it (compute mode EXCLUSIVE_PROCESS)."""


@dataclass(frozen=True)
class Driver:
    version: str
    gpus: tuple[Gpu, ...]
    """The GPUs that may compute, in nvidia-smi's order."""


def read_driver() -> Driver | None:
    """Returns what the driver reports, or None if no driver answers."""
    try:
        with open_nvml() as nvml:
            return Driver(nvml.driver_version(), tuple(_gpus(nvml)))
    except NvmlError:
        return None


def list_gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that this process may use, in the order of torch's numbers.

    If the driver does not answer, they come from the files in /dev, without names.
    """
    driver = read_driver()
    gpus = _by_their_files() if driver is None else driver.gpus
    shown = os.environ.get(VISIBLE)
    return gpus if shown is None else tuple(_shown(gpus, shown))


def are_hidden() -> bool:
    """Whether the environment hides all GPUs from this process."""
    return os.environ.get(VISIBLE, "0").strip() in _HIDING


def describe_gpus() -> str | None:
    """Returns the evidence that this machine has GPUs, as part of a sentence, or None."""
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
    """Reads the variable as CUDA does: in order, until the first word that names no GPU."""
    for word in map(str.strip, shown.split(",")):
        named = [gpu for gpu in gpus if _is_named(gpu, word)]
        if not named:
            return
        yield from named


def _is_named(gpu: Gpu, word: str) -> bool:
    """Whether the word is its number or the start of its UUID."""
    if word.isdecimal():
        return gpu.number == int(word)
    return bool(word) and (gpu.uuid.startswith(word) or gpu.whole.startswith(word))
