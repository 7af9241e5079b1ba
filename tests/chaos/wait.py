"""Waits for what a process does, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

POLL_S: Final = 0.05
# After this time the event is taken never to happen. A busy machine makes everything many times
# slower, so this is no promise; `rows` has the promised times.
WITHIN_S: Final = 300.0


class WaitedInVainError(Exception):
    """Something did not happen; the message names it."""


def until(what: str, condition: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
    """Returns the condition's value once it is true.

    While the database is down, the condition counts as false.

    Raises:
        WaitedInVainError: it was not true in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        if found := _ask(condition):
            return found
        if time.monotonic() > deadline:
            raise WaitedInVainError(f"this did not happen within {within_s:.0f} s: {what}")
        time.sleep(POLL_S)


def seconds_until(what: str, condition: Callable[[], Any], *, within_s: float = WITHIN_S) -> float:
    """Returns how long the wait took."""
    began = time.monotonic()
    until(what, condition, within_s=within_s)
    return time.monotonic() - began


def _ask(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except DBAPIError:
        return False
