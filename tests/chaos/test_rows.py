"""Every row of `make chaos`, shortened: once or a few times, for a moment, on one database.

Rows share a stack, in which all that died is alive again before the next one begins; those that
want another kind of stack share that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.chaos.one_row import run_row
from tests.chaos.rows import ROWS, Row
from tests.chaos.stack import Stack, installed
from tests.chaos.suite import run_apart

SEED = 1
# Shorter, it would be over before a crash is reported.
LEASE_S = 5.0
BATCH_S = 0.03
# Other tests keep the machine busy; the full run holds a recovery to what is promised of it.
CROWDED = 2.0

StackOf = Callable[[Row], Stack]


@pytest.fixture(scope="session")
def stack_of(tmp_path_factory) -> Iterator[StackOf]:
    with ExitStack() as ending:
        stacks: dict[str, Stack] = {}

        def make(row: Row) -> Stack:
            options = {**row.stack, "lease_s": LEASE_S, "batch_s": BATCH_S}
            kind = f"{row.databases[-1]} {options}"
            if kind not in stacks:
                folder = tmp_path_factory.mktemp("chaos")
                stacks[kind] = ending.enter_context(installed(folder, row.databases[-1], **options))
            stacks[kind].heal()
            return stacks[kind]

        yield make


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.small_disk], ids=lambda row: row.name
)
def test_nothing_is_lost_doubled_or_wrong(row: Row, stack_of: StackOf) -> None:
    within_s = None if row.within_s is None else CROWDED * row.within_s
    row = replace(row, within_s=within_s)
    outcome = run_row(row, row.databases[-1], stack_of(row), times=row.few, short=True, seed=SEED)
    assert outcome.is_good, outcome
    assert outcome.caused == row.few


@pytest.mark.parametrize("row", [row for row in ROWS if row.small_disk], ids=lambda row: row.name)
def test_nothing_is_lost_where_a_disk_is_full(row: Row) -> None:
    outcome = run_apart(row, row.databases[-1], times=row.few, seed=SEED, short=True)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.is_good, outcome
    assert outcome.caused == row.few
