"""The dashboard's memory of tasks and workers, which is bounded and kept in a file.

Flower itself keeps 100,000 tasks, loses them when it ends, and never forgets a worker.
`worker.commands.flower` creates the `History` and gives it to Flower.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from celery import Celery
from flower.app import Flower
from flower.events import Events
from tornado.ioloop import IOLoop, PeriodicCallback

log = logging.getLogger(__name__)

# They take 50 MB of memory and 0.6 s to save. Flower's default of 100,000 takes 540 MB and 14 s.
MOST_TASKS: Final = 5_000
MOST_WORKERS: Final = 1_000
# A dashboard that is killed loses what came after the last save. One that is stopped saves all.
SAVE_EVERY_S: Final = 60.0
# A restarted worker has the same name, so one that is silent for longer will not come back.
FORGET_WORKERS_AFTER_S: Final = 600
PURGE_EVERY_S: Final = 30.0
MS: Final = 1000


class History(Events):  # type: ignore[misc]  # Flower has no types
    """Flower's memory. It is read from the file at the start and written at the end."""

    def __init__(self, app: Celery, file: Path) -> None:
        super().__init__(
            capp=app,
            io_loop=IOLoop.current(),
            # A pickle, but only its owner can write to the folder.
            db=str(file),
            persistent=True,
            state_save_interval=SAVE_EVERY_S * MS,
            max_tasks_in_memory=MOST_TASKS,
            max_workers_in_memory=MOST_WORKERS,
        )

    def save_state(self) -> None:
        """Saves the history. On a full disk it is lost, but the dashboard still stops cleanly."""
        try:
            super().save_state()
        except Exception as error:  # noqa: BLE001  (each kind of dbm has its own errors)
            log.warning("The dashboard's history could not be saved in %s: %s", self.db, error)


def forget_offline_workers(
    flower: Flower, *, after_s: float, now: Callable[[], float] = time.time
) -> None:
    """Removes workers that have sent nothing for `after_s` from all of Flower's tables."""
    state = flower.events.state
    known = set(state.workers) | set(state.counter) | set(flower.inspector.workers)
    gone = {name for name in known if _silence_s(state.workers.get(name), now()) >= after_s}
    for name in gone:
        for where in (state.workers, state.counter, flower.inspector.workers):
            where.pop(name, None)
    state.metrics.remove_workers(gone)


def forgetting(flower: Flower) -> PeriodicCallback:
    """A timer that calls `forget_offline_workers`. The caller starts it."""
    return PeriodicCallback(
        lambda: forget_offline_workers(flower, after_s=FORGET_WORKERS_AFTER_S), PURGE_EVERY_S * MS
    )


def _silence_s(worker: Any, now: float) -> float:  # noqa: ANN401
    """Seconds since the worker's last event: 0 if it is alive, infinite if it is unknown."""
    if worker is None:
        return float("inf")
    if worker.alive:
        return 0.0
    seen = worker.heartbeats[-1:] or [getattr(worker, "timestamp", 0.0)]
    return now - float(seen[0])
