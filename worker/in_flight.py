"""How many chunks a worker takes at a time: a few seconds of the work that it has shown to do.

Celery's loop asks once a second. More would be held back from other workers, and a worker on a
CPU would hold minutes of work; with fewer the device would wait for the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

# One that is classified, and one that loads meanwhile.
FEWEST_CHUNKS: Final = 2
FEWEST_BATCHES: Final = 2


@dataclass(frozen=True, kw_only=True)
class InFlight:
    in_flight_s: float
    most_chunks: int
    batch_images: int
    images_per_s: Callable[[], float]
    """What the device does while there is something to do; 0: not known yet."""
    images_per_chunk: Callable[[], float]

    def wanted_chunks(self) -> int:
        images = max(self.in_flight_s * self.images_per_s(), FEWEST_BATCHES * self.batch_images)
        chunks = ceil(images / self.images_per_chunk())
        return min(max(chunks, FEWEST_CHUNKS), self.most_chunks)
