"""Rotates the log file that `resnextq up` gives to a process, so that its size is limited.

`up` appends the standard output and error of each process to that process's file, and passes the
file's path to it. Before each line, `contract.log` checks here whether the file is full. If it is,
the process itself renames the file and continues in a new one. No other process copies the lines,
so no line is lost, even if `up` is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

FILE: Final = "RESNEXTQ_LOG_FILE"
"""An environment variable: the path of the file that `up` opened for this process."""
OUTPUT: Final = (1, 2)
"""Descriptors of standard output and error."""


class LogFile:
    """The file that this process writes to. A worker and its supervisor share one file."""

    def __init__(self, path: Path, *, most_bytes: int, kept: int) -> None:
        """
        Args:
            path: the current file; older ones are `path.1`, `path.2`, …, the newest first.
            most_bytes: a file of this size or more gets no further line.
            kept: the number of older files to keep.
        """
        self._path = path
        self._most_bytes = most_bytes
        self._kept = kept

    def make_room(self) -> None:
        """Continues in a new file if this one is full, or if another process began a new one.

        If the disk is full or the folder is gone, the lines stay in the current file.
        """
        with suppress(OSError):
            written = os.fstat(OUTPUT[-1])
            if not stat.S_ISREG(written.st_mode):  # a worker's output goes to its supervisor
                return
            if not self._is_current(written) or written.st_size >= self._most_bytes:
                self._go_on(written)

    def _is_current(self, written: os.stat_result) -> bool:
        try:
            return os.path.samestat(written, self._path.stat())
        except FileNotFoundError:  # the file was moved or deleted
            return False

    def _go_on(self, written: os.stat_result) -> None:
        with _locked(self._path.parent):
            turn_if_full(self._path, most_bytes=self._most_bytes, kept=self._kept)
            new = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for descriptor in OUTPUT:
                if os.path.samestat(os.fstat(descriptor), written):
                    os.dup2(new, descriptor)
        finally:
            os.close(new)


def turn_if_full(path: Path, *, most_bytes: int, kept: int) -> None:
    """Renames a full file to `path.1`, and each `path.N` to `path.N+1`; drops the oldest.

    Raises:
        OSError: the folder cannot be changed.
    """
    if not path.exists() or path.stat().st_size < most_bytes:
        return
    older = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, kept + 1))]
    for young, old in reversed(list(pairwise(older))):
        if young.exists():
            young.replace(old)
    if not kept:
        path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes sure that only one of several processes renames a full file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
