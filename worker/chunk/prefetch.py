"""How many chunks a worker takes at a time: a few seconds of the work that it has shown to do.

Celery's loop asks once a second. More would be held back from other workers, and nobody could
overtake it; with less the device would wait for the network. What counts is images: a chunk of
which all but two are settled is as little work as one of two, although its task goes on for as
long as patience lasts. And a network that is slower than the device has no use for more images
than the loaders can fetch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

# One that is classified, and one that loads meanwhile.
FEWEST_CHUNKS: Final = 2
FEWEST_BATCHES: Final = 2


class InHand(NamedTuple):
    """Of the chunks whose tasks have not ended."""

    chunks: int
    images: int
    """Still to be done."""
    waiting: int
    """Those of them that no loader has begun."""


@dataclass(frozen=True, kw_only=True)
class InFlight:
    in_flight_s: float
    most_chunks: int
    batch_images: int
    images_per_s: Callable[[], float]
    """What the device does while there is something to do; 0: not known yet."""
    images_per_chunk: Callable[[], float]
    in_hand: Callable[[], InHand]
    free_slots: Callable[[], int]
    """Images that the loaders could begin at once."""

    def wanted_chunks(self) -> int:
        in_hand = self.in_hand()
        fewest = FEWEST_BATCHES * self.batch_images
        room = max(self.in_flight_s * self.images_per_s(), fewest) - in_hand.images
        room = min(room, self.free_slots() + fewest - in_hand.waiting)
        chunks = in_hand.chunks + ceil(room / self.images_per_chunk())
        return min(max(chunks, FEWEST_CHUNKS), self.most_chunks)
