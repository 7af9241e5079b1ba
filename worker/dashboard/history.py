"""What the dashboard remembers of tasks and workers: a bounded part of it, kept in a file.

Flower alone keeps 100,000 tasks, forgets them when it ends, and never forgets a worker.
`worker.commands.flower` makes the `History` and hands it to Flower.
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

# They take 50 MB of memory and 0.6 s to save; Flower's own 100,000 take 540 MB and 14 s.
MOST_TASKS: Final = 5_000
MOST_WORKERS: Final = 1_000
# What Flower has seen since is lost where it is killed; one that is stopped writes all of it.
SAVE_EVERY_S: Final = 60.0
# A worker that is restarted has its old name, so one that is away for longer is gone.
FORGET_WORKERS_AFTER_S: Final = 600
PURGE_EVERY_S: Final = 30.0
MS: Final = 1000


class History(Events):  # type: ignore[misc]  # Flower has no types
    """Flower's memory. It is read from the file when it is made, and written at the end."""

    def __init__(self, app: Celery, file: Path) -> None:
        super().__init__(
            capp=app,
            io_loop=IOLoop.current(),
            # A pickle, in a folder that only its owner can write to.
            db=str(file),
            persistent=True,
            state_save_interval=SAVE_EVERY_S * MS,
            max_tasks_in_memory=MOST_TASKS,
            max_workers_in_memory=MOST_WORKERS,
        )

    def save_state(self) -> None:
        """A full disk costs the history, and does not keep the dashboard from stopping."""
        try:
            super().save_state()
        except Exception as error:  # noqa: BLE001  (each kind of dbm has errors of its own)
            log.warning("The dashboard's history is not saved in %s: %s", self.db, error)


def forget_offline_workers(
    flower: Flower, *, after_s: float, now: Callable[[], float] = time.time
) -> None:
    """Removes workers that have sent nothing for `after_s`, wherever Flower keeps them."""
    state = flower.events.state
    known = set(state.workers) | set(state.counter) | set(flower.inspector.workers)
    gone = {name for name in known if _silence_s(state.workers.get(name), now()) >= after_s}
    for name in gone:
        for where in (state.workers, state.counter, flower.inspector.workers):
            where.pop(name, None)
    state.metrics.remove_workers(gone)


def forgetting(flower: Flower) -> PeriodicCallback:
    """Calls `forget_offline_workers` every so often, once it is started."""
    return PeriodicCallback(
        lambda: forget_offline_workers(flower, after_s=FORGET_WORKERS_AFTER_S), PURGE_EVERY_S * MS
    )


def _silence_s(worker: Any, now: float) -> float:  # noqa: ANN401
    """Of a worker as Celery has it; one of which no event has come is as good as never seen."""
    if worker is None:
        return float("inf")
    if worker.alive:
        return 0.0
    seen = worker.heartbeats[-1:] or [getattr(worker, "timestamp", 0.0)]
    return now - float(seen[0])
