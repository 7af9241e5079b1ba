"""Prints messages to standard error, and what Rich has drawn to standard output."""

# ruff: noqa: T201  (results go to standard output)
# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def tell(message: str) -> None:
    """Prints a message for people to standard error. What others wrote in it is escaped."""
    from contract.log import in_lines

    print(f"resnextq: {in_lines(message)}", file=sys.stderr)


def show(rendered: RenderableType) -> None:
    """Prints what Rich draws. Rich itself would turn a closed pipe into exit status 1."""
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        console.print(rendered)
    print(capture.get(), end="")
