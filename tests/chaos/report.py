"""The table that the suite prints, followed by what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.chaos.outcome import Outcome
from tests.chaos.rows import ROWS

FILE_CHARS: Final = 150
WHAT = {row.name: row.what for row in ROWS}


def show(outcomes: Sequence[Outcome]) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_CHARS, highlight=False)
    console.print(_table(outcomes))
    for complaint in _complaints(outcomes):
        console.print(complaint, markup=False, soft_wrap=True)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("fault")
    table.add_column("database")
    for number in ("caused", "images", "lost", "doubled", "wrong", "worst recovery"):
        table.add_column(number, justify="right", no_wrap=True)
    table.add_column("")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    return table


def _cells(outcome: Outcome) -> tuple[str, ...]:
    what, verdict = WHAT[outcome.name], outcome.verdict
    if outcome.skipped:
        return (what, outcome.database, *("-" * 6), "skipped")
    return (
        what,
        outcome.database,
        f"{outcome.caused}",
        f"{verdict.images:,}",
        f"{verdict.lost:,}",
        f"{verdict.doubled:,}",
        f"{verdict.wrong:,}",
        "-" if outcome.worst_s is None else f"{outcome.worst_s:.1f} s",
        "good" if outcome.is_good else "FAILED",
    )


def _complaints(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{outcome.name} on {outcome.database}: {complaint}"
        for outcome in outcomes
        for complaint in (outcome.skipped, *outcome.complaints, *outcome.verdict.findings)
        if complaint
    ]
