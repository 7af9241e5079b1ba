"""Computes how many chunks a worker should hold, from what its parts hold now.

Celery's loop calls `wanted_chunks` once a second and sets its prefetch count. With more, other
workers would lack chunks; with fewer, the device would wait for the network. `contract.flow` has
the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contract.flow import InHand, prefetch_chunks


@dataclass(frozen=True, kw_only=True)
class InFlight:
    in_flight_s: float
    most_chunks: int
    batch_images: int
    images_per_s: Callable[[], float]
    """The device's rate while it is busy; 0 if it is not known yet."""
    images_per_chunk: Callable[[], float]
    in_hand: Callable[[], InHand]
    free_slots: Callable[[], int]
    """The number of images that the loaders could begin now."""

    def wanted_chunks(self) -> int:
        return prefetch_chunks(
            self.in_hand(),
            in_flight_s=self.in_flight_s,
            images_per_s=self.images_per_s(),
            images_per_chunk=self.images_per_chunk(),
            free_slots=self.free_slots(),
            batch_images=self.batch_images,
            most_chunks=self.most_chunks,
        )
