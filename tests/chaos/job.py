"""A job that the suite submits: its images, and how they may end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final

Image = tuple[str, str | None]
"""A URI, and the submitter's id of it."""

# The share of a job's images that have an id: all, most or none.
SHARES_WITH_ID: Final = (1.0, 0.7, 0.0)
# Images in a chunk. Chunks of one database differ in length, so a chunk that gets the ids of
# another one shows. A job that must be one chunk has at most the smallest of these numbers.
CHUNK_LENGTHS: Final = (5, 11, 16)

_prefixes: Final = count()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was submitted, and how it may end."""

    id: str
    images: Sequence[Image]
    state: str = "completed"
    also: frozenset[str] = frozenset()
    """Error codes that an image may have instead of its answer."""


def name_images(uris: Sequence[str], random: Random) -> list[Image]:
    """Gives the images ids that no other image of this process has. Some images get none."""
    prefix, share = next(_prefixes), random.choice(SHARES_WITH_ID)
    return [
        (uri, f"{prefix}-{position}" if random.random() < share else None)
        for position, uri in enumerate(uris)
    ]
