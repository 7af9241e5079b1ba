"""Text for terminals: where lines break, and in which colours Rich draws. Every command uses it.

The colours are those of the terminal's own palette, so that they suit a dark and a light one.
"""

# ruff: noqa: PLC0415  (Rich is imported when something is drawn)

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Final = {
    "bar.back": "bright_black",
    "bar.complete": "cyan",
    "bar.finished": "green",
    "bar.pulse": "cyan",
    "markdown.code": "bold cyan",
    "progress.elapsed": "cyan",
}
USUAL_CELLS: Final = 80
"""Width of a terminal that does not say how wide it is."""
# What people copy stays whole: a command in backquotes, or one that ends its line, after a colon.
_UNIT: Final = re.compile(r"( *)(\w+: (?:\w+=\S+ )*resnextq [^:`]*$|`[^`]+`[^ ]*|[^ ]+)")


def make_console(**options: Any) -> Console:  # noqa: ANN401  (Rich's own)
    """A console of Rich in the terminal's own colours."""
    from rich.console import Console
    from rich.theme import Theme

    return Console(theme=Theme(STYLES), **options)


def wrap_for_terminal(text: str) -> str:
    """The text as standard error should show it: wrapped at words if that is a terminal."""
    return wrap(text, _cells()) if sys.stderr.isatty() else text


def wrap(text: str, cells: int) -> str:
    """Breaks long lines between words. Commands stay whole. What continues an indented line is
    indented further.
    """
    return "\n".join(_wrap_line(line, cells) for line in text.split("\n"))


def _wrap_line(line: str, cells: int) -> str:
    if _cells_of(line) <= cells:
        return line
    indent = line[: len(line) - len(line.lstrip(" "))]
    lines = [""]
    for spaces, unit in _UNIT.findall(line):
        longer = f"{lines[-1]}{spaces}{unit}"
        if _cells_of(longer) <= cells or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(f"{indent * 2}{unit}")
    return "\n".join(lines)


def _cells_of(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cells() -> int:
    """The width of standard error; `shutil` would take that of standard output."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_CELLS
    except OSError:
        return USUAL_CELLS
