"""Restarts dead processes, as a supervisor would, while a fault waits for its jobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.chaos.stack import Stack

LOOK_S: Final = 0.1


@contextmanager
def healing(stack: Stack) -> Iterator[None]:
    closed = threading.Event()
    thread = threading.Thread(target=_heal, args=(stack, closed), name="healing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


def _heal(stack: Stack, closed: threading.Event) -> None:
    while not closed.wait(LOOK_S):
        stack.revive()
