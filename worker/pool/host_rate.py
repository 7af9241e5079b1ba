"""The rate of one host, in images per second over all workers. The broker's Redis keeps count.

The pool's scheduler asks for a parked image, and gets a call of `permit` when the image may go. A
thread in the worker's main process asks Redis, because loaders hold no passwords. While Redis is
down, no image is permitted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import ceil, floor
from random import uniform
from typing import Final

from celery import Celery
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from contract.broker.connection import redis_of
from worker.pool.backoff import Backoff

log = logging.getLogger(__name__)

KEY_PREFIX: Final = "resnextq"
# A rate is a number of images in a number of whole seconds. More seconds meet the rate more
# precisely; fewer seconds let fewer images go at once.
LONGEST_WINDOW_S: Final = 10
# Redis returns the time of the next image in milliseconds, and it may already be past.
SHORTEST_WAIT_S: Final = 0.01
# The longest wait between two tries while Redis is down.
LONGEST_OUTAGE_WAIT_S: Final = 5.0


class HostRate:
    """Owns the hosts that wait for permission. Redis's clock decides, so the machines' clocks may
    differ.
    """

    def __init__(self, app: Celery, images_per_s: float) -> None:
        self.images_per_s = images_per_s
        self._app = app
        self._item = window_of(images_per_s)
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._away = False
        self._waiting: Backoff[str] = Backoff(self._try)
        self._permit: Callable[[str], object] = lambda _: None

    def start(self, permit: Callable[[str], object]) -> None:
        """Calls `permit` with the host, once for each `ask`."""
        self._permit = permit
        self._waiting.start()

    def ask(self, host: str) -> None:
        """Asks for one image of this host. Never blocks."""
        self._waiting.put(host, 0.0)

    def close(self) -> None:
        """Permits no more images."""
        self._waiting.close()

    def _try(self, host: str) -> None:
        try:
            wait_s = self._wait_s(host)
        except Exception as error:  # noqa: BLE001  (after any error, no image goes without permission)
            self._note_outage(error)
            self._waiting.put(host, uniform(0.0, LONGEST_OUTAGE_WAIT_S))
            return
        if self._away:
            log.info("Redis is back. Images are fetched again.")
        self._away = False
        if wait_s:
            self._waiting.put(host, wait_s)
        else:
            self._permit(host)

    def _wait_s(self, host: str) -> float:
        """Returns 0 and counts an image if it may go now; otherwise the seconds to wait."""
        self._limiter = self._limiter or _limiter(self._app)
        if self._limiter.hit(self._item, host):
            return 0.0
        free_at, _ = self._limiter.get_window_stats(self._item, host)
        # The wait is bounded, in case a clock was set back.
        return min(max(SHORTEST_WAIT_S, free_at - time.time()), float(self._item.get_expiry()))

    def _note_outage(self, error: Exception) -> None:
        if not self._away:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("Redis cannot be asked for the rate of hosts. Waiting: %s", reason)
        self._away = True


def window_of(images_per_s: float) -> RateLimitItem:
    """The rate in whole images and seconds, rounded down."""
    if images_per_s < 1:
        return RateLimitItemPerSecond(1, ceil(1 / images_per_s))
    seconds = max(range(1, LONGEST_WINDOW_S + 1), key=lambda s: floor(images_per_s * s) / s)
    return RateLimitItemPerSecond(floor(images_per_s * seconds), seconds)


def _limiter(app: Celery) -> SlidingWindowCounterRateLimiter:
    """Uses Celery's connections to the broker, so every form of its URL works."""
    pool = redis_of(app).connection_pool
    storage = RedisStorage("redis://", connection_pool=pool, key_prefix=KEY_PREFIX)
    return SlidingWindowCounterRateLimiter(storage)
