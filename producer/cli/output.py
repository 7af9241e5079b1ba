"""Prints messages to standard error, and Rich's output to standard output."""

# ruff: noqa: T201  (results go to standard output)
# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_CELLS: Final = 10_000


def tell(message: str) -> None:
    """Prints a message to standard error, or logs it if this program logs JSON. Control characters
    in it are escaped.
    """
    import logging

    from contract.log import in_lines, writes_json
    from contract.terminal import wrap_for_terminal

    if writes_json():  # a long-running program: nothing else reads its output
        logging.getLogger("resnextq").error("%s", message)
        return
    print(wrap_for_terminal(in_lines(f"resnextq: {message}")), file=sys.stderr)


def show(rendered: RenderableType) -> None:
    """Prints Rich's output. Rich itself would turn a closed pipe into exit status 1.

    A pipe has no width, so a line there is as long as it must be, unless COLUMNS is set.
    """
    from contract.terminal import make_console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = make_console(width=None if has_width else PIPE_CELLS)
    with console.capture() as capture:
        console.print(rendered)
    print(capture.get(), end="")
