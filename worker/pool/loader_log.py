"""Logs what loaders write to their standard error, after escaping it.

A loader that was taken over can write anything there. So each line is marked as a loader's line,
control characters never reach a terminal, and all loaders together may log only a limited number
of lines per minute. `worker.pool.reader` reads, and `worker.pool.process` holds the pipe.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from typing import IO, Final, cast

from contract.log import in_one_line

log = logging.getLogger(__name__)

MOST_LINES: Final = 200
"""For all loaders of a pool together, per window."""
WINDOW_S: Final = 60.0
MOST_LINE_BYTES: Final = 2000
PIECE_BYTES: Final = 64 * 1024
# A pipe holds as much as one piece. Output after the last read is lost.
LAST_PIECES: Final = 4


class LogBudget:
    """How many lines may still be logged. Only the reader uses it."""

    def __init__(self) -> None:
        self._ends_at = 0.0
        self._left = 0

    def take(self) -> bool:
        """Whether one more line may be logged. Logs a warning at the first line over the limit."""
        if time.monotonic() >= self._ends_at:
            self._ends_at, self._left = time.monotonic() + WINDOW_S, MOST_LINES
        self._left -= 1
        if self._left == -1:
            log.warning(
                "Loaders have written more than %d lines within %.0f s. The rest is dropped.",
                MOST_LINES,
                WINDOW_S,
            )
        return self._left >= 0


class LoaderLog:
    """Owns the reading end of one loader's standard error."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        """`child` must have a pipe as its standard error."""
        self._pipe = cast("IO[bytes]", child.stderr)
        self._process = child.pid
        self._rest = b""
        os.set_blocking(self._pipe.fileno(), False)

    @property
    def closed(self) -> bool:
        return self._pipe.closed

    def fileno(self) -> int:
        return self._pipe.fileno()

    def read(self, budget: LogBudget) -> bool:
        """Logs the available lines without waiting. Returns False if no more can come."""
        try:
            piece = os.read(self._pipe.fileno(), PIECE_BYTES)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if not piece or len(self._rest) >= MOST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip() and budget.take():
                self._log(line)
        return bool(piece)

    def close(self, budget: LogBudget) -> None:
        """Logs the remaining lines."""
        for _ in range(LAST_PIECES):
            if not self.read(budget):
                break
        self._pipe.close()

    def _log(self, line: bytes) -> None:
        text = line[:MOST_LINE_BYTES].decode(errors="backslashreplace")
        log.warning("Loader %d: %s", self._process, in_one_line(text))
