"""Runs a command on a real terminal, and finds strangers' control characters in its output."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

HOSTILE: Final = "\x1b[2J\x1b]0;t\x07\x9b31m\u202egnp.exe\u2066\x7f[red]"
"""Clears the screen, sets a title, turns red, and reverses the direction of the following text."""
USUAL: Final = {"TERM": "xterm-256color", "COLUMNS": "200", "LANG": "C.UTF-8", "LC_ALL": ""}
"""The environment of a usual terminal."""
# Rich's own sequences: colours, hiding and showing the cursor, going up, clearing a line.
_DRAWING: Final = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*A|2K)")
_RAW: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def on_a_terminal(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> str:
    """Returns everything that a command writes to its terminal, including standard error."""
    ours, its = pty.openpty()
    child = subprocess.Popen(
        command,
        env=os.environ | USUAL | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = bytearray()
    with suppress(OSError):  # EIO: the command has closed the terminal
        while block := os.read(ours, 65536):
            written += block
    os.close(ours)
    child.wait()
    return written.decode()


def steering(shown: str) -> set[str]:
    """Returns the characters that control a terminal, other than those of Rich."""
    return set(_RAW.findall(_DRAWING.sub("", shown)))
