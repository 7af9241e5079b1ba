"""`make chaos`: every fault, again and again, on both databases; then one table.

    python -m tests.chaos                          all rows
    python -m tests.chaos --row NAME ...           some
    python -m tests.chaos --row NAME --database D --times N    one, so often

Each row has processes, servers and a folder of its own, and is a process itself (`one_row`);
some run at a time, since most of a row's time is waiting. Exit status 1 if anything was lost,
doubled or wrong, or took too long.
"""

from __future__ import annotations

import argparse
import sys

from tests.chaos.report import show
from tests.chaos.rows import BOTH, ROWS
from tests.chaos.suite import AT_ONCE, run_suite


def main() -> int:
    options = _parse()
    rows = [row for row in ROWS if not options.row or row.name in options.row]
    databases = options.database or BOTH
    outcomes = run_suite(
        [(row, database) for row in rows for database in row.databases if database in databases],
        times=options.times,
        seed=options.seed,
        at_once=options.at_once,
    )
    show(outcomes)
    return int(not all(outcome.is_good for outcome in outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS])
    parser.add_argument("--database", action="append", choices=BOTH)
    parser.add_argument("--times", type=int, help="by default what the table says")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="rows that run at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
