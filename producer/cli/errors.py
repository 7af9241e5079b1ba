"""Messages and exit statuses of failing commands. `producer.cli.main` uses it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

import typer

from contract.errors import ResnextQueueError, UnavailableError
from producer.cli.output import tell
from producer.cli.signals import TerminatedError
from producer.cli.width import Group, use_own_styles

FINISHED_WITH_FAILURES = 1
BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
# Errors of a write without a file name: the disk is full, or the caller has closed the stream.
OUTPUT_FAULTS = frozenset((errno.ENOSPC, errno.EBADF, errno.EIO))
_ADVICE = {
    errno.EACCES: "Run this as the owner, or set RESNEXT_HOME to your own folder.",
    errno.ENOSPC: "Free some space on the disk, and try again.",
    errno.EROFS: "Set RESNEXT_HOME to a writable folder.",
}


class Commands(Group):
    """Turns a command's error into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (Typer keeps its class to itself)
        try:
            answer = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe can still change the exit status here
        except (Exception, KeyboardInterrupt) as error:
            exit_status = explain(error)
            if exit_status is None:
                use_own_styles()  # Typer prints the error
                raise
            raise typer.Exit(exit_status) from error
        return answer


def explain(error: BaseException) -> int | None:
    """Prints the message of an error. Returns its exit status, or None if it needs a traceback."""
    signalled = _interruption(error)
    if signalled is not None:
        return TERMINATED if isinstance(signalled, TerminatedError) else INTERRUPTED
    if isinstance(error, ResnextQueueError):
        tell(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader of the pipe has ended
        _silence_standard_output()
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.filename is not None:
        advice = _ADVICE.get(error.errno or 0, "")
        tell(f"{os.fsdecode(error.filename)}: {error.strerror}. {advice}".strip())
        return UnavailableError.exit_code
    if isinstance(error, OSError) and error.errno in OUTPUT_FAULTS:
        _silence_standard_output()
        tell(f"standard output: {error.strerror}")
        return UnavailableError.exit_code
    return None


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind an error: during a query it makes the driver's clean-up fail."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _silence_standard_output() -> None:
    """Lets Python flush its buffer to /dev/null when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
