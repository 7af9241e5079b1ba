"""Celery's pool of task threads, but continues with fewer if the system permits no more.

`worker.process.celery_worker` gives it to Celery. A thread starts when a task arrives and no thread
is idle. Without this class, a thread that cannot be started would end the worker.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.concurrency.thread import TaskPool

log = logging.getLogger(__name__)


class PatientThreads(ThreadPoolExecutor):
    """If no thread can be started for a task, the task waits for a running one."""

    _met = False

    def _adjust_thread_count(self) -> None:
        """`submit` calls this after it has put the task in the threads' common queue.

        Raises:
            RuntimeError: there is no thread at all.
        """
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            if not self._met:
                self._met = True
                log.warning(
                    "The system permits no more threads, so only %d chunks run at once. "
                    "Raise the limit of processes and threads.",
                    len(self._threads),
                )


class TaskThreads(TaskPool):  # type: ignore[misc]  # Celery has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (the same)
        super().__init__(*args, **kwargs)
        self.executor = PatientThreads(max_workers=self.limit)
        self.executor.submit(int)  # so that there is one thread
