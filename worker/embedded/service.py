"""A command of ours that the embedded stack keeps running, its log and what it reports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from contract.log import LISTENER
from worker.embedded.children import kill_child, start_child, stop_child

RESNEXTQ: Final = Path(sys.executable).with_name("resnextq")
FIRST_RESTART_S: Final = 1.0
LONGEST_RESTART_S: Final = 30.0
# After a run of this length the waits are short again.
STABLE_S: Final = 60.0
TAIL_LINES: Final = 8
READ_BYTES: Final = 65_536


class Service:
    """`resnextq NAME` as a process; started again, after growing waits, when it ends.

    `new_messages` has what it logs where it is `heard`.
    """

    def __init__(
        self,
        name: str,
        logs: Path,
        *options: str,
        stop_within_s: float,
        heard: bool = False,
    ) -> None:
        self.name = name
        self._command: list[str | Path] = [RESNEXTQ, name, *options]
        self.log = logs / f"{name}.log"
        self._stop_within_s = stop_within_s
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._wait_s = FIRST_RESTART_S
        self._restart_at: float | None = None
        self._messages = Messages() if heard else None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """
        Raises:
            OSError: the program or its log cannot be opened.
        """
        self._started_at = time.monotonic()
        self._restart_at = None
        if self._messages is None:
            self._child = start_child(self._command, log=self.log)
        else:
            with self._messages.pipe() as end:
                self._child = start_child(
                    self._command,
                    log=self.log,
                    kept=[end],
                    variables={LISTENER: str(end)},
                )

    def has_ended(self) -> int | None:
        """The exit status, once for each end; from then on the wait until `revive` runs."""
        if self._child is None or self._restart_at is not None:
            return None
        status = self._child.poll()
        if status is not None:
            self._plan_restart()
        return status

    @property
    def runs(self) -> bool:
        """Whether its process lives. Unlike `has_ended`, it can be asked any number of times."""
        return self._child is not None and self._child.poll() is None

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

    def new_messages(self) -> list[str]:
        """What it has logged since the last call, each in one line."""
        return [] if self._messages is None else self._messages.read()

    def stop_listening(self) -> None:
        """From now on it is not heard, also when it is started again."""
        if self._messages is not None:
            self._messages.close()
            self._messages = None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _plan_restart(self) -> None:
        if time.monotonic() - self._started_at > STABLE_S:
            self._wait_s = FIRST_RESTART_S
        self._restart_at = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_RESTART_S)


class Messages:
    """The reading end of a pipe that a process writes its messages into; see `contract.log`."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._begun = b""

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """A new pipe instead of the old one; the writing end is open here until the process
        has it.
        """
        self.close()
        self._descriptor, end = os.pipe()
        os.set_blocking(self._descriptor, False)
        try:
            yield end
        finally:
            os.close(end)

    def read(self) -> list[str]:
        if self._descriptor is None:
            return []
        with suppress(BlockingIOError):
            while came := os.read(self._descriptor, READ_BYTES):
                self._begun += came
        *lines, self._begun = self._begun.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._begun = None, b""
