"""Runs one row on one database in its own process, and prints the outcome as the last line.

`suite` starts it. The row of the full disk runs in its own mount namespace.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.chaos.outcome import Outcome
from tests.chaos.rows import ROWS, Row
from tests.chaos.stack import Database, Stack, installed
from tests.chaos.trial import run_trial

# Enough for the files of either database, with little to spare.
SMALL_DISK: Final = "size=48m"


def run_row(
    row: Row, database: Database, stack: Stack, *, times: int, short: bool, seed: int
) -> Outcome:
    """Runs the row; a shortened run has no time limit."""
    trial, verdict = run_trial(row.fault, stack, times=times, short=short, seed=seed)
    row = replace(row, within_s=None) if short else row
    return Outcome.of(row, database, trial, verdict)


@contextmanager
def stack_of(row: Row, database: Database, folder: Path) -> Iterator[Stack]:
    with ExitStack() as ending:
        data = ending.enter_context(_small_disk(folder)) if row.small_disk else None
        yield ending.enter_context(installed(folder, database, data=data, **row.stack))


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "small", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its processes end, too
    logging.disable()  # the program's log lines are in its processes' logs
    options = _parse()
    row = next(row for row in ROWS if row.name == options.row)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with stack_of(row, options.database, folder) as stack:
        outcome = run_row(
            row,
            options.database,
            stack,
            times=options.times,
            short=options.short,
            seed=options.seed,
        )
    if outcome.is_good:
        shutil.rmtree(folder)
    else:
        outcome = replace(outcome, complaints=(*outcome.complaints, f"see the logs in {folder}"))
    sys.stdout.write(f"{outcome.encode()}\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.one_row")
    parser.add_argument("row")
    parser.add_argument("database")
    parser.add_argument("times", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--short", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
