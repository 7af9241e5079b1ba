"""Runs work in a background thread: `submit` inserts there while it reads on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(work: Callable[[], T]) -> Future[T]:
    """Starts the work in a daemon thread. An interrupted submit does not wait for it if the
    database is unavailable.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return future
