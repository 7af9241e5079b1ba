"""A command of ours that the embedded stack keeps running, and its log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from worker.embedded.children import kill_child, start_child, stop_child

RESNEXTQ: Final = Path(sys.executable).with_name("resnextq")
FIRST_RESTART_S: Final = 1.0
LONGEST_RESTART_S: Final = 30.0
# Whoever has run for this long begins anew with short waits.
STABLE_S: Final = 60.0
TAIL_LINES: Final = 8


class Service:
    """`resnextq NAME` as a process; started again, after growing waits, when it ends."""

    def __init__(self, name: str, logs: Path, *, stop_within_s: float) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._stop_within_s = stop_within_s
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._wait_s = FIRST_RESTART_S
        self._restart_at: float | None = None
        self._shown_bytes = 0

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """
        Raises:
            OSError: the program or its log cannot be opened.
        """
        self._shown_bytes = self.log.stat().st_size if self.log.exists() else 0
        self._started_at = time.monotonic()
        self._restart_at = None
        self._child = start_child([RESNEXTQ, self.name], log=self.log)

    def has_ended(self) -> int | None:
        """The exit status, once for each end; from then on the wait until `revive` runs."""
        if self._child is None or self._restart_at is not None:
            return None
        status = self._child.poll()
        if status is not None:
            self._plan_restart()
        return status

    @property
    def restarts_in_s(self) -> float:
        return 0.0 if self._restart_at is None else max(0.0, self._restart_at - time.monotonic())

    def revive(self) -> None:
        """Starts it again once its wait is over; nothing happens while it runs."""
        if self._restart_at is not None and time.monotonic() >= self._restart_at:
            self.start()

    def stop(self) -> None:
        if self._child is not None:
            stop_child(self._child, within_s=self._stop_within_s)

    def kill(self) -> None:
        if self._child is not None:
            kill_child(self._child)

    def new_lines(self) -> list[str]:
        """Whole lines of the log that have come since the last call, or since the start."""
        with self.log.open("rb") as log:
            log.seek(self._shown_bytes)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._shown_bytes += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _plan_restart(self) -> None:
        if time.monotonic() - self._started_at > STABLE_S:
            self._wait_s = FIRST_RESTART_S
        self._restart_at = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_RESTART_S)
