"""How every process of the embedded stack is started: it shares no Ctrl-C and outlives nobody."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2); Linux


def start_child(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own, its output appended to `log`.

    It is sent `death_signal` when the thread that started it ends, however that comes.

    Raises:
        OSError: the program or the log cannot be opened.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=lambda: _die_with_parent(death_signal),  # noqa: PLW1509  (no threads yet)
        )


def stop_child(child: subprocess.Popen[bytes], *, within_s: float) -> None:
    """SIGTERM, and SIGKILL to its whole group where that is not heeded in time."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _die_with_parent(death_signal: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, death_signal)
