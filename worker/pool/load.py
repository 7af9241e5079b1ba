"""What the pool returns for one image: its pixels in shared memory, or a failure.

`worker.pool.scheduler` makes these from a loader's answers. Tasks and `classify` take them, and the
batcher releases each slot after it has copied the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contract.failure import Failure
from resnext.picture.resample import Pixels
from worker.chunk.outcome import NOT_MEASURED, Measured, Provenance


class PoolClosed(Exception):
    """The worker is stopping: the pool loads no more images."""


class LineFull(Exception):
    """Too many images of this host are parked already. Load this one again later."""


class SlotOwner(Protocol):
    """The pool that a slot belongs to."""

    def take_back(self, loads: Sequence[Loaded]) -> None: ...


@dataclass(slots=True)  # Not frozen, because that is slower to create. Treat it as read-only.
class Loaded:
    """An image whose pixels are in a slot. Release it after reading them."""

    pixels: Pixels
    """(crop, crop, 3) uint8, in memory shared with the loader. Valid until `release`."""
    provenance: Provenance
    owner: SlotOwner
    slot: Any
    """The slot, in a form that only the owner understands."""
    measured: Measured = NOT_MEASURED

    def release(self) -> None:
        release([self])


def release(loads: Sequence[Loaded]) -> None:
    """Frees the slots of images whose pixels have been read. All must be of one pool."""
    loads[0].owner.take_back(loads)


@dataclass(slots=True)  # as Loaded
class LoadFailed:
    """An image that could not be loaded. It holds no slot."""

    failure: Failure
    provenance: Provenance
    measured: Measured = NOT_MEASURED


Load = Loaded | LoadFailed
Callback = Callable[[Load], None]
KeyedLoads = list[tuple[Any, Load]]
"""Loads with the keys that the caller gave to their images."""
ManyCallback = Callable[[KeyedLoads], None]
