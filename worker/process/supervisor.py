"""A small process above the worker, which sees how the worker ends.

`resnextq worker` becomes two: this one waits, and passes signals on; the worker is its child.
No other process can tell a worker that crashed from one that was killed, and only a crash may
come from an image (`producer.dispatcher.suspects`). It reports to SQL before it ends itself: in a
container all other processes end with the first one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from contract.database.engine import make_engine
from contract.database.tables import workers
from contract.log import log_lines
from contract.process_name import name_process
from contract.settings import Settings
from worker.loader.sandbox.prctl import PR_SET_DUMPABLE, die_with, prctl
from worker.process.cause import device_fault
from worker.process.stop_signal import STOP_SIGNAL

log = logging.getLogger(__name__)

# How a process ends that its own code has ended. SIGKILL comes from a person, a scheduler, or the
# kernel when memory is short; in the worker no image takes more memory than another.
CRASHES: Final = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
# A database that is away for longer learns no more of it than that the worker is dead.
REPORT_WITHIN_S: Final = 10.0
REPORT_PAUSE_S: Final = 0.5
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def run_watched(settings: Settings) -> None:
    """Returns in the worker, after a clean stop; this process ends as the worker does.

    Raises:
        UnavailableError, UsageError: in the worker, as `worker.main.run_worker` does.
    """
    prctl(PR_SET_DUMPABLE, 0)  # passwords are in its environment as well
    log_lines(settings.log_level)
    watched(settings, lambda name: _run(settings, name))


def _run(settings: Settings, name: str) -> None:
    # Below the fork, so that the supervisor stays small.
    from worker.main import run_worker  # noqa: PLC0415

    run_worker(settings, name)


def watched(settings: Settings, work: Callable[[str], None]) -> None:
    """Calls `work` in a child process with the worker's name, and returns there when it does.

    To be called while there is one thread and no CUDA. This process ends with the child's status.
    """
    name = name_process()  # by this process's id, which is the command's
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    child = os.fork()
    if child == 0:
        die_with(parent)  # it would run on without a supervisor
        signal.signal(STOP_SIGNAL, _leave)  # until it has work
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        work(name)
    else:
        sys.exit(_status(settings, name, _wait_for(child)))


def _leave(*_: object) -> None:
    sys.exit(0)


def _wait_for(child: int) -> int:
    """How it ended: its exit status, or a signal's number below zero."""
    for number in _STOPS:
        signal.signal(number, lambda *_: os.kill(child, STOP_SIGNAL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its number stays its own
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _status(settings: Settings, name: str, code: int) -> int:
    """This process's exit status, as a shell gives it."""
    if code >= 0:
        return code
    ended_by = signal.Signals(-code)
    if ended_by is STOP_SIGNAL:  # a second one, when Python had put its handlers away at the end
        return 1
    log.error("The worker was ended by %s.", ended_by.name)
    if cause := device_fault.read():
        log.error("Its device was the cause, and no image: %s", cause)
    elif ended_by in CRASHES:
        _report(settings, name, ended_by.name)
    return 128 - code


def _report(settings: Settings, name: str, crashed_by: str) -> None:
    engine = make_engine(settings.database())
    until = time.monotonic() + REPORT_WITHIN_S
    statement = update(workers).where(workers.c.name == name).values(crashed_by=crashed_by)
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(statement)
        except SQLAlchemyError as error:
            if time.monotonic() > until:
                log.warning("The database does not know of the crash: %s", error)
                return
            time.sleep(REPORT_PAUSE_S)
        else:
            return
