"""Waiting for what a process does, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

POLL_S: Final = 0.05
# No promise, but a sign that it never comes: on a machine that is busy with other work, all takes
# many times as long. What is promised is in `rows`.
WITHIN_S: Final = 300.0


class WaitedInVainError(Exception):
    """Something has not come about; the message says what."""


def until(what: str, condition: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
    """What the condition gives, once it is true; a database that is away makes it false.

    Raises:
        WaitedInVainError: it never was.
    """
    deadline = time.monotonic() + within_s
    while True:
        if found := _ask(condition):
            return found
        if time.monotonic() > deadline:
            raise WaitedInVainError(f"waited {within_s:.0f} s in vain: {what}")
        time.sleep(POLL_S)


def seconds_until(what: str, condition: Callable[[], Any], *, within_s: float = WITHIN_S) -> float:
    """How long that took."""
    began = time.monotonic()
    until(what, condition, within_s=within_s)
    return time.monotonic() - began


def _ask(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except DBAPIError:
        return False
