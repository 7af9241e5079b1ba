"""Quarantine: a loader that tries suspects in small groups, down to one image alone.

A loader that dies may leave no note of the image that it was decoding. Then any image in flight
may be the cause. After several such deaths `worker.pool.verdict` puts those images into
quarantine. Their next loader gets only as many at once as `in_flight_limit` allows. Each further
death halves the limit, until one image is alone in a new loader. That image is then the only
suspect. Each answer raises the limit by one, so innocent images soon run fast again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from worker.pool.request import LoadRequest


@dataclass
class Quarantine:
    """A loader's quarantine. The pool gives this loader no other images."""

    waiting: deque[LoadRequest]
    """Images that are not sent yet. Those that were in flight at the last death come first."""
    initial_limit: int
    """How many images may be in flight before the loader's first answer."""

    def in_flight_limit(self, answered: int) -> int:
        return self.initial_limit + answered
