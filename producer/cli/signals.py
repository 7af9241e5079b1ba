"""SIGTERM and Ctrl-C, for commands that undo half-done work."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import signal
from typing import NoReturn


class TerminatedError(KeyboardInterrupt):
    """Raised by SIGTERM. Database drivers expect a KeyboardInterrupt during a query."""


def stop_cleanly_when_terminated() -> None:
    """Makes SIGTERM undo a half-done submit, like Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(number: int, _frame: object) -> NoReturn:
    """Silences the pool's log, then raises.

    A driver cannot clean up during a query. Its connection is dropped, and the job is discarded
    over a new connection. The pool would log this, which does not help the user.
    """
    import logging

    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt
