"""Rows of `make chaos`, shortened: a few times, with short outages, on one database.

The tests check that nothing is lost, doubled or wrong, however busy the machine is. Only `make
chaos` checks how long a recovery takes. Rows with the same options share a stack. Before each row,
all dead processes of the stack are restarted.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.one_row import run_row
from tests.chaos.rows import ROWS, Row
from tests.chaos.stack import Stack, installed
from tests.chaos.suite import ROW_WITHIN_S, run_apart
from tests.chaos.wait import until

SEED = 1
# With a shorter lease, it would expire before a crash is reported.
LEASE_S = 5.0
BATCH_S = 0.03

PLAYED = [row for row in ROWS if row.few]

pytestmark = pytest.mark.timeout(ROW_WITHIN_S)
StackOf = Callable[[Row], Stack]


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is kept if a test fails, for its logs.

    It is not pytest's tmp_path: each pytest that starts closes their common parent to other users,
    and if the tests run as root, PostgreSQL runs as another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield folder
    if not request.session.testsfailed:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack_of(folder: Path) -> Iterator[StackOf]:
    with ExitStack() as ending:
        stacks: dict[str, Stack] = {}

        def make(row: Row) -> Stack:
            options = {**row.stack, "lease_s": LEASE_S, "batch_s": BATCH_S}
            kind = f"{row.databases[-1]} {options}"
            if kind not in stacks:
                own = folder / f"{len(stacks)}"
                own.mkdir()
                stacks[kind] = ending.enter_context(installed(own, row.databases[-1], **options))
            stacks[kind].heal()
            return stacks[kind]

        yield make


@pytest.mark.parametrize(
    "row", [row for row in PLAYED if not row.small_disk], ids=lambda row: row.name
)
def test_nothing_is_lost_doubled_or_wrong(row: Row, stack_of: StackOf) -> None:
    stack = stack_of(row)
    outcome = run_row(row, row.databases[-1], stack, times=row.few, short=True, seed=SEED)
    assert outcome.is_good, f"{outcome}\nsee the logs in {stack.folder}"
    assert outcome.caused == row.few


@pytest.mark.parametrize("row", [row for row in PLAYED if row.small_disk], ids=lambda row: row.name)
def test_nothing_is_lost_when_the_disk_is_full(row: Row) -> None:
    outcome = run_apart(row, row.databases[-1], times=row.few, seed=SEED, short=True)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.is_good, outcome
    assert outcome.caused == row.few


def test_a_worker_that_is_about_to_end_is_restarted(stack_of: StackOf) -> None:
    """Its supervisor cannot report the crash while another transaction has SQLite's lock."""
    stack = stack_of(next(row for row in ROWS if row.name == "kill-worker"))
    worker = stack.workers[0]
    supervisor = worker.pid
    with ThreadPoolExecutor(1) as threads:
        with stack.engine.begin():
            os.kill(worker.pids()[1], signal.SIGSEGV)
            until("the supervisor knows of the crash", lambda: "SIGSEGV" in worker.said())
            healing = threads.submit(stack.heal)
        healing.result()
    assert worker.pid != supervisor
    assert worker.is_running
