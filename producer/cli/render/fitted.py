"""A table that fits its terminal. If it is too wide, whole columns are left out, in a given order.

Columns that may shrink do so first. In a pipe `show` gives a table all the width that it wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP: Final = 2
"""Character cells between two columns."""


@dataclass(frozen=True)
class Column:
    title: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "left"
    dropped: int = 0
    """The column with the highest number is left out first. 0: it always stays."""
    least: int | None = None
    """Least width in cells; longer texts continue on the next line. None: it does not shrink."""
    cut: bool = False
    """Whether longer texts are cut instead."""

    @property
    def width(self) -> int:
        return max(len(self.title), *(cell.cell_len for cell in self.cells), 0)

    @property
    def narrowest(self) -> int:
        return self.width if self.least is None else min(self.width, self.least)


@dataclass(frozen=True)
class Fitted:
    columns: Sequence[Column]
    title: str | None = field(default=None, kw_only=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = fit(self.columns, options.max_width)
        room = options.max_width - sum(c.narrowest for c in kept) - GAP * (len(kept) - 1)
        table = Table(
            title=self.title, title_justify="left", box=None, header_style="dim", pad_edge=False
        )
        for column in kept:
            table.add_column(
                column.title,
                justify=column.justify,
                overflow=("crop" if options.ascii_only else "ellipsis") if column.cut else "fold",
                no_wrap=column.cut or column.least is None,
                min_width=column.narrowest,
                max_width=column.narrowest + max(0, room) if column.cut else None,
            )
        for row in zip(*(column.cells for column in kept), strict=True):
            table.add_row(*row)
        yield table


def fit(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit side by side."""
    kept = list(columns)
    while _least_width(kept) > width and any(column.dropped for column in kept):
        kept.remove(max(kept, key=lambda column: column.dropped))
    return kept


def _least_width(columns: Sequence[Column]) -> int:
    return sum(column.narrowest for column in columns) + GAP * (len(columns) - 1)
