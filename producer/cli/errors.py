"""What a command that fails prints, and its exit status. `producer.cli.main` runs it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from contract.errors import ResnextQueueError, UnavailableError
from producer.cli.output import tell
from producer.cli.signals import TerminatedError

FINISHED_WITH_FAILURES = 1
BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Commands(TyperGroup):
    """Turns the error of a command into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (Typer keeps its class to itself)
        try:
            answer = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # here a closed pipe still changes the exit status
        except (Exception, KeyboardInterrupt) as error:
            exit_status = _explain(error)
            if exit_status is None:
                raise
            raise typer.Exit(exit_status) from error
        return answer


def _explain(error: BaseException) -> int | None:
    """Prints the message of an error; its exit status, None if it needs a traceback."""
    signalled = _interruption(error)
    if signalled is not None:
        return TERMINATED if isinstance(signalled, TerminatedError) else INTERRUPTED
    if isinstance(error, ResnextQueueError):
        tell(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader has left
        _silence_standard_output()
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _silence_standard_output()
        tell(f"standard output: {error.strerror}")
        return UnavailableError.exit_code
    return None


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind an error: in the middle of a query it makes the driver's clean-up fail."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _silence_standard_output() -> None:
    """Gives Python a place to flush its buffer to when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
