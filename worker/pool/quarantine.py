"""Quarantine: a loader that tries suspects in small groups, down to one image alone.

A loader that dies may leave no note of the image that it was decoding. Then any image in flight
may have caused it. After several such deaths `worker.pool.verdict` puts those images into
quarantine. Their next loader gets only as many at once as `in_flight_limit` allows. Each further
death halves the limit, until one image is alone in a new loader. That image is then the only
suspect. Each answer raises the limit by one, so the innocent neighbours soon run fast again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from worker.pool.request import LoadRequest


@dataclass
class Quarantine:
    """The pool gives a loader in quarantine no other images."""

    waiting: deque[LoadRequest]
    """Not sent yet; those that were in flight at the last death come first."""
    initial_limit: int
    """Images that may be in flight before the loader has answered any."""

    def in_flight_limit(self, answered: int) -> int:
        return self.initial_limit + answered
