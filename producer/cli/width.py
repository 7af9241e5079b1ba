"""Chooses how help is drawn: as tables, or on a narrow terminal as plain text.

In a table of 60 cells the names of options and settings would be cut.
"""

from __future__ import annotations

import sys
from shutil import get_terminal_size
from typing import Any, Final

from typer.core import TyperGroup

TABLE_CELLS: Final = 80
"""Width from which options and their descriptions stand side by side."""
# "markdown" joins the lines of a paragraph. Plain help does so, too.
MARKUP: Final = "markdown" if get_terminal_size().columns >= TABLE_CELLS else None


class Group(TyperGroup):
    """A group whose plain help shows each command's sentence in full. Typer cuts it to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (Typer's)
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(limit=sys.maxsize))
                    for name, command in named
                    if command is not None and not command.hidden
                ]
            )
