"""One of our commands that `resnextq up` keeps running, with its log and its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from contract.log import LISTENER
from worker.embedded.children import kill_child, start_child, stop_child

RESNEXTQ: Final = Path(sys.executable).with_name("resnextq")
# If the program is not beside the interpreter: some package managers install it elsewhere.
MODULE: Final = (sys.executable, "-m", "producer.cli")
FIRST_RESTART_S: Final = 1.0
LONGEST_RESTART_S: Final = 30.0
# After a run of this length, the next wait is short again.
STABLE_S: Final = 60.0
TAIL_LINES: Final = 8
READ_BYTES: Final = 65_536


class Service:
    """`resnextq NAME` as a process. When it ends, it is restarted after a growing wait.

    `variables` are added to its environment. With `heard`, `new_messages` returns what it logs.
    """

    def __init__(
        self,
        name: str,
        logs: Path,
        *options: str,
        stop_within_s: float,
        heard: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._variables = dict(variables or {})
        program = (RESNEXTQ,) if RESNEXTQ.exists() else MODULE
        self._command: list[str | Path] = [*program, name, *options]
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
            self._child = start_child(self._command, log=self.log, variables=self._variables)
        else:
            with self._messages.pipe() as end:
                self._child = start_child(
                    self._command,
                    log=self.log,
                    kept=[end],
                    variables=self._variables | {LISTENER: str(end)},
                )

    def has_ended(self) -> int | None:
        """Returns the exit status, once for each end, and begins the wait for `revive`."""
        if self._child is None or self._restart_at is not None:
            return None
        status = self._child.poll()
        if status is not None:
            self._plan_restart()
        return status

    @property
    def runs(self) -> bool:
        """Whether its process runs. Unlike `has_ended`, this changes nothing."""
        return self._child is not None and self._child.poll() is None

    @property
    def restarts_in_s(self) -> float:
        return 0.0 if self._restart_at is None else max(0.0, self._restart_at - time.monotonic())

    def revive(self) -> None:
        """Restarts the process if it has ended and its wait is over."""
        if self._restart_at is not None and time.monotonic() >= self._restart_at:
            self.start()

    def stop(self) -> None:
        if self._child is not None:
            stop_child(self._child, within_s=self._stop_within_s)

    def kill(self) -> None:
        if self._child is not None:
            kill_child(self._child)

    def new_messages(self) -> list[str]:
        """The messages that it has logged since the last call, one line each."""
        return [] if self._messages is None else self._messages.read()

    def stop_listening(self) -> None:
        """Ends `new_messages`, also for a restarted process."""
        if self._messages is not None:
            self._messages.close()
            self._messages = None

    def tail(self) -> str:
        """The end of its log. Of JSON lines only the message."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(map(_said, lines))

    def _plan_restart(self) -> None:
        if time.monotonic() - self._started_at > STABLE_S:
            self._wait_s = FIRST_RESTART_S
        self._restart_at = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_RESTART_S)


def _said(line: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return line


class Messages:
    """The reading end of a pipe into which a process writes its messages; see `contract.log`."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._begun = b""

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """Replaces the pipe, and yields the new writing end. It is closed here afterwards, so the
        started process must have inherited it by then.
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
