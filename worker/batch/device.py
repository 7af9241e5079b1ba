"""Which GPU a worker computes on: one that no other worker of this machine holds.

`worker.batch.model` asks before it loads the network, and before CUDA starts: from then on this
process sees no other GPU, so that it has a context, and half a gigabyte of memory, on none. A GPU
is held by the lock of a file, which ends with its process; the file lies in the cache, which all
workers of a machine share.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resnext.errors import DeviceError
from resnext.run.nvidia import VISIBLE, Gpu, list_gpus
from resnext.weights.own_file import open_own_descriptor

log = logging.getLogger(__name__)

AUTO: Final = "auto"
CPU: Final = "cpu"


@dataclass(frozen=True)
class Device:
    device: str
    """As torch is asked for it in this process."""
    name: str | None = None
    """What people call it, where that is something else: `cuda:1` on a machine of several GPUs."""


def choose_device(asked: str, cache: Path) -> Device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`. A GPU is this process's alone from now on,
    or shared where each has a worker; for `auto` it is the first that is free.

    Raises:
        DeviceError: all that may be chosen have workers, and cannot be shared.
    """
    gpus = () if asked == CPU else list_gpus()
    wanted = range(len(gpus)) if asked == AUTO else _named(asked, len(gpus))
    if not wanted:  # no GPU, or no such: `find_device` decides, and says what is wrong
        return Device(asked)
    place = hold_first_free([gpus[number] for number in wanted], cache / "gpus")
    os.environ[VISIBLE] = gpus[wanted[place]].uuid
    return Device(AUTO if asked == AUTO else "cuda:0", f"cuda:{wanted[place]}")


def _named(asked: str, gpus: int) -> range:
    """The place of `cuda` or `cuda:N` among them; empty if it is neither, or not there."""
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        return range(0)
    return range(gpus)[int(number or "0") :][:1]


def hold_first_free(gpus: Sequence[Gpu], folder: Path) -> int:
    """The place in the list of the first GPU that has no worker; it is held until this process
    ends. Where each has one, the first that can be shared is.

    Raises:
        DeviceError: none can be, or a lock cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, gpu in enumerate(gpus):
        if _hold(folder / f"{gpu.uuid.replace('/', '-')}.lock"):
            return place
    shared = next((place for place, gpu in enumerate(gpus) if not gpu.exclusive), None)
    if shared is None:
        raise DeviceError(
            f"Each of {len(gpus)} GPUs has a worker, and computes for one process alone (compute "
            "mode EXCLUSIVE_PROCESS): stop one of the workers, or let processes share a GPU with "
            "nvidia-smi --compute-mode=DEFAULT."
        )
    log.warning(
        "Each of %d GPUs has a worker already; this one shares %s.", len(gpus), gpus[shared].uuid
    )
    return shared


def _hold(path: Path) -> bool:
    """
    Raises:
        DeviceError: another user may have made what is there.
    """
    try:
        lock = open_own_descriptor(path, mode=0o600)  # for others could hold it as well
    except OSError as error:
        raise DeviceError(
            f"The lock {path}, which says that a GPU has a worker, cannot be opened: "
            f"{error.strerror or error}."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True  # the descriptor stays open, and with it the lock
