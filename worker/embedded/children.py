"""Starts and stops the processes of `resnextq up`.

Ctrl-C does not reach them, and they do not outlive the process that starts them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from contract.log_file import FILE
from worker.loader.sandbox.prctl import die_with


def start_child(
    command: Sequence[str | Path],
    *,
    log: Path,
    kept: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a new process group, and appends its output to `log`.

    The process inherits only the file descriptors in `kept`. Its environment gets `variables` and
    the name of the log, which our own commands need to limit its size. The process receives SIGTERM
    when the thread that started it ends, for whatever reason.

    Raises:
        OSError: the program or the log cannot be opened.
    """
    added = {FILE: os.fspath(log), **(variables or {})}
    with log.open("ab") as output:
        return subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | added,
            pass_fds=kept,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),  # noqa: PLW1509  (no threads yet)
        )


def stop_child(child: subprocess.Popen[bytes], *, within_s: float) -> None:
    """Sends SIGTERM. If the process runs longer than `within_s`, kills its whole group."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        kill_child(child)
        child.wait()


def kill_child(child: subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL to the whole group. This also ends a running `stop_child`."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
