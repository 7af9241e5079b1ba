"""The worker's parent process, which sees how the worker ends.

`resnextq worker` is two processes: this one waits and passes signals on, and its child is the
worker. Only a parent can tell a worker that crashed from one that was killed, and only a crash can
be due to an image (`producer.dispatcher.suspects`). This process reports a crash to SQL before it
ends. It is the first process of a container, with which all others end.
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
from contract.log import log_as_set, name_worker
from contract.process_name import name_process
from contract.settings import Settings
from worker.loader.sandbox.prctl import PR_SET_DUMPABLE, die_with, prctl
from worker.process.cause import device_fault
from worker.process.native_output import NativeOutput
from worker.process.stop_signal import STOP_SIGNAL

log = logging.getLogger(__name__)

# The signals by which a process's own code ends it. SIGKILL comes from a person, a scheduler, or
# the kernel when memory is short. It is not due to an image: in the worker's main process, all
# images need the same memory.
CRASHES: Final = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
# If the database is down for longer, it does not learn of the crash, only that the worker is dead.
REPORT_WITHIN_S: Final = 10.0
REPORT_PAUSE_S: Final = 0.5
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def run_watched(settings: Settings) -> None:
    """Starts the worker. Returns in the child, after a clean stop; the parent exits like the child.

    Raises:
        UnavailableError, UsageError: in the worker, as `worker.main.run_worker` does.
    """
    prctl(PR_SET_DUMPABLE, 0)  # passwords are in its environment as well
    log_as_set(settings)
    watched(settings, lambda name: _run(settings, name))


def _run(settings: Settings, name: str) -> None:
    # Imported after the fork, so that the supervisor stays small.
    from worker.main import run_worker  # noqa: PLC0415

    run_worker(settings, name)


def watched(settings: Settings, work: Callable[[str], None]) -> None:
    """Calls `work` with the worker's name in a child process, and returns in the child.

    Call it while there is one thread and no CUDA. This process ends with the child's status.
    """
    name = name_process()  # with this process's id, which is the one that users see
    name_worker(name)
    output = NativeOutput() if settings.log_format == "json" else None
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    child = os.fork()
    if child == 0:
        die_with(parent)  # it must not run without a supervisor
        signal.signal(STOP_SIGNAL, _leave)  # until the worker installs its own handler
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if output is not None:
            output.speak()
        work(name)
        return
    if output is not None:
        output.listen()
    code = _wait_for(child)
    if output is not None:
        output.close()
    sys.exit(_status(settings, name, code))


def _leave(*_: object) -> None:
    sys.exit(0)


def _wait_for(child: int) -> int:
    """Returns the child's exit status, or the negative number of the signal that ended it."""
    for number in _STOPS:
        signal.signal(number, lambda *_: os.kill(child, STOP_SIGNAL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its process id is not reused yet
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _status(settings: Settings, name: str, code: int) -> int:
    """Returns this process's exit status, as a shell would."""
    if code >= 0:
        return code
    ended_by = signal.Signals(-code)
    if ended_by is STOP_SIGNAL:  # a second one, after Python had removed its handlers at the end
        return 1
    log.error("The worker was ended by %s.", ended_by.name)
    if cause := device_fault.read():
        log.error("The cause was its device, not an image: %s", cause)
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
                log.warning("Could not report the crash to the database: %s", error)
                return
            time.sleep(REPORT_PAUSE_S)
        else:
            return
