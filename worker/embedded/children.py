"""How every process of the embedded stack is started: it shares no Ctrl-C and outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from worker.loader.sandbox.prctl import die_with


def start_child(
    command: Sequence[str | Path],
    *,
    log: Path,
    kept: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own, its output appended to `log`; of our open files
    it gets those in `kept`, by their descriptors. `variables` are added to its environment.

    It is sent SIGTERM when the thread that started it ends, however that comes.

    Raises:
        OSError: the program or the log cannot be opened.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (variables or {}),
            pass_fds=kept,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),  # noqa: PLW1509  (no threads yet)
        )


def stop_child(child: subprocess.Popen[bytes], *, within_s: float) -> None:
    """SIGTERM, and SIGKILL to its whole group where that is not heeded in time."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        kill_child(child)
        child.wait()


def kill_child(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to its whole group; whoever waits for it waits no longer."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
