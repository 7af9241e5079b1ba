"""Chooses a GPU for a worker: one that no other worker of this machine holds.

`worker.batch.model` calls this before it loads the network and before CUDA starts. From then on the
process sees no other GPU, so it has no context there, which would take half a gigabyte of memory. A
worker holds a GPU by the lock of a file, which ends with the process. The file is in the cache,
which all workers of a machine share.
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
    """torch's name for it in this process."""
    name: str | None = None
    """The machine's name for it, if it differs: `cuda:1` on a machine with several GPUs."""


def choose_device(asked: str, cache: Path) -> Device:
    """Returns the device for `auto`, `cpu`, `cuda` or `cuda:N`. For `auto` it is the first free
    GPU. From now on the process holds the GPU alone, or shares it if each GPU has a worker.

    Raises:
        DeviceError: all possible GPUs have workers and cannot be shared.
    """
    gpus = () if asked == CPU else list_gpus()
    wanted = range(len(gpus)) if asked == AUTO else _named(asked, len(gpus))
    if not wanted:  # no GPU, or not this one: `find_device` decides, and reports what is wrong
        return Device(asked)
    place = hold_first_free([gpus[number] for number in wanted], cache / "gpus")
    os.environ[VISIBLE] = gpus[wanted[place]].uuid
    return Device(AUTO if asked == AUTO else "cuda:0", f"cuda:{wanted[place]}")


def _named(asked: str, gpus: int) -> range:
    """The index of `cuda` or `cuda:N`. Empty if `asked` is something else or does not exist."""
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        return range(0)
    return range(gpus)[int(number or "0") :][:1]


def hold_first_free(gpus: Sequence[Gpu], folder: Path) -> int:
    """Holds the first GPU without a worker until this process ends, and returns its index. If each
    GPU has a worker, returns the first one that can be shared.

    Raises:
        DeviceError: no GPU can be shared, or a lock cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, gpu in enumerate(gpus):
        if _hold(folder / f"{gpu.uuid.replace('/', '-')}.lock"):
            return place
    shared = next((place for place, gpu in enumerate(gpus) if not gpu.exclusive), None)
    if shared is None:
        raise DeviceError(
            f"Each of {len(gpus)} GPUs has a worker and allows only one process (compute mode "
            "EXCLUSIVE_PROCESS). Stop one of the workers, or let processes share a GPU with "
            "nvidia-smi --compute-mode=DEFAULT."
        )
    log.warning(
        "Each of %d GPUs already has a worker. This one shares %s.", len(gpus), gpus[shared].uuid
    )
    return shared


def _hold(path: Path) -> bool:
    """Takes the lock of a file. Returns False if another process has it.

    Raises:
        DeviceError: another user may have created the file.
    """
    try:
        lock = open_own_descriptor(path, mode=0o600)  # otherwise other users could lock it
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
