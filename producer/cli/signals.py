"""SIGTERM and Ctrl-C, for commands that undo what they have half done."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import signal
from typing import NoReturn


class TerminatedError(KeyboardInterrupt):
    """SIGTERM. Database drivers expect a KeyboardInterrupt in the middle of a query."""


def stop_cleanly_when_terminated() -> None:
    """Lets SIGTERM undo what is half submitted, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(number: int, _frame: object) -> NoReturn:
    """Silences the pool's log, then raises.

    In the middle of a query a driver cannot clean up. Its connection is dropped, and the job is
    discarded over a new one. The pool would log that, which is of no use to people.
    """
    import logging

    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt
