"""A program in its own process group, which can be killed, stopped and restarted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.chaos.wait import until

ROOT: Final = Path(__file__).parents[2]
READY: Final = " ready: "
# Stopped, a zombie or dead, as /proc names the states of a thread.
STOPPED: Final = frozenset("TtZX")


class Process:
    """A program that can be started repeatedly; all its runs share a log."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._began_at = 0

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._began_at = log.tell()
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exchange(self, command: Sequence[str], **variables: str) -> None:
        """Stops the program, then starts another one in its place."""
        self.stop()
        self._command = command
        self._environment = self._environment | variables
        self.start()
        self.await_ready()

    def await_ready(self) -> None:
        until(f"{self.log.name} is ready", lambda: READY in self.said() or not self.is_running)
        assert self.is_running, f"{self.log.name} has ended:\n{self.said()[-2000:]}"

    def said(self) -> str:
        """Returns what the program logged since its last start."""
        return self.log.read_bytes()[self._began_at :].decode(errors="replace")

    def pids(self) -> list[int]:
        """Returns the ids of the process and its descendants."""
        return list(descendants(self.pid))

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the whole group."""
        os.killpg(self.pid, number)

    def freeze(self) -> None:
        """Stops the whole group and waits until all its threads have stopped. A thread in a system
        call first ends this call, which may take a lock.
        """
        self.signal(signal.SIGSTOP)
        until("all threads are stopped", lambda: set(self._thread_states()) <= STOPPED)

    def _thread_states(self) -> Iterator[str]:
        for pid in filter(self._is_of_group, self.pids()):
            for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
                with suppress(OSError):  # it has ended
                    yield stat.read_text().rpartition(")")[2].split()[0]

    def _is_of_group(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            return os.getpgid(pid) == self.pid
        return False

    def stop(self) -> None:
        """Stops the program with SIGTERM."""
        assert self._child is not None
        self._child.terminate()
        self._child.wait()

    def end(self) -> None:
        """Kills the program and its descendants with SIGKILL."""
        if self._child is None:
            return
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._child.wait()


def descendants(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):  # the process has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from descendants(int(child))


def program_of(pid: int) -> str:
    """Returns the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
