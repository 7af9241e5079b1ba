"""Chooses how help is drawn: as tables, or as plain text in a pipe or on a narrow terminal.

In a table of 60 cells the names of options and settings would be cut.
"""

# ruff: noqa: PLC0415  (Rich is imported when something is drawn)

from __future__ import annotations

import inspect
import sys
from shutil import get_terminal_size
from typing import Any, Final

from typer.core import TyperArgument, TyperCommand, TyperGroup

TABLE_CELLS: Final = 80
"""Width from which options and their descriptions stand side by side."""


def _has_room() -> bool:
    return sys.stdout.isatty() and get_terminal_size().columns >= TABLE_CELLS


# "markdown" joins the lines of a paragraph. Plain help does so, too.
MARKUP: Final = "markdown" if _has_room() else None


def use_own_styles() -> None:
    """Makes Typer's help and errors legible on dark and light terminals, without dim text, blue or
    a background.
    """
    from rich.default_styles import DEFAULT_STYLES
    from rich.style import Style
    from typer import rich_utils

    from contract.terminal import STYLES

    DEFAULT_STYLES["markdown.code"] = Style.parse(STYLES["markdown.code"])
    rich_utils.STYLE_HELPTEXT = ""
    rich_utils.STYLE_ERRORS_SUGGESTION = ""
    rich_utils.RICH_HELP = "Try '{command_path} {help_option}' for help."


class Command(TyperCommand):
    """A command whose help shows no types of Python."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (Typer's)
        use_own_styles()
        _hide_types(self.get_params(ctx))
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group whose plain help shows the first paragraph of each command's help. Typer would cut it
    to one line.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (Typer's)
        use_own_styles()
        _hide_types(self.get_params(ctx))
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (Typer's)
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, _first_paragraph(command.help or ""))
                    for name, command in named
                    if command is not None and not command.hidden
                ]
            )


def _hide_types(params: list[Any]) -> None:
    """An argument and a flag need no type beside their names."""
    for param in params:
        if isinstance(param, TyperArgument) or getattr(param, "is_flag", False):
            param.display_type_rich = lambda **_: None


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
