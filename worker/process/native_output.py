"""Turns what a worker's libraries print into log lines, if the log is JSON.

A compiler's warning is not JSON, nor is what the C library prints before it aborts. So the worker
writes into a pipe. Its supervisor (`worker.process.supervisor`) passes on each line that is JSON
and logs all others, including the last line before a crash.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Final

from contract.log import write_line

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 64 * 1024
MOST_LINE_BYTES: Final = 2**20
"""Longer lines are logged in pieces."""
END_WITHIN_S: Final = 2.0
"""The time limit for reading the worker's last lines after its end."""


class NativeOutput:
    """A pipe from the worker to its supervisor. Make it before the fork."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._thread = threading.Thread(target=self._pass_on, name="native output", daemon=True)

    def speak(self) -> None:
        """Sends this process's output into the pipe. Call it in the worker."""
        os.close(self._reading)
        sys.stderr.flush()
        for descriptor in (1, 2):
            os.dup2(self._writing, descriptor)
        os.close(self._writing)

    def listen(self) -> None:
        """Starts to read. Call it in the supervisor while signals are blocked.

        Signals must reach the main thread, not this one.
        """
        os.close(self._writing)
        self._thread.start()

    def close(self) -> None:
        """Waits until all lines are passed on. Call it in the supervisor after the worker's end."""
        self._thread.join(END_WITHIN_S)

    def _pass_on(self) -> None:
        rest = b""
        while piece := os.read(self._reading, PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) >= MOST_LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                pass_on(line)
        pass_on(rest)


def pass_on(line: bytes) -> None:
    """Writes a JSON line unchanged, and logs any other line as a warning."""
    text = line.decode(errors="backslashreplace")
    if _is_of_log(text):
        write_line(text)
    elif text.strip():
        log.warning("%s", text)


def _is_of_log(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
