"""A real terminal for a command, and what a person would see of strangers' texts there."""

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
"""Clears the screen, sets a title, turns red, and turns the direction of what follows."""
# What Rich draws with: colours, the cursor hidden and shown, a line gone back to and cleared.
_DRAWING: Final = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*A|2K)")
_RAW: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def on_a_terminal(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> str:
    """All that a command writes to its terminal, standard error included."""
    ours, its = pty.openpty()
    child = subprocess.Popen(
        command,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"} | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = bytearray()
    with suppress(OSError):  # EIO: its last end is closed
        while block := os.read(ours, 65536):
            written += block
    os.close(ours)
    child.wait()
    return written.decode()


def steering(shown: str) -> set[str]:
    """The characters that steer a terminal, beside what Rich draws with."""
    return set(_RAW.findall(_DRAWING.sub("", shown)))
