"""`make chaos` causes every fault, again and again, on both databases, and prints a table.

    python -m tests.chaos                          all rows
    python -m tests.chaos --row NAME [--row NAME]  some rows
    python -m tests.chaos --row NAME --database D --times N    one row, N times

Each row runs in a process of its own (`one_row`), with its own processes, servers and folder.
Several rows run at once, since a row waits most of its time. The exit status is 1 if an image was
lost, doubled or wrong, or if a recovery took too long.
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
    parser.add_argument(
        "--times", type=int, help="how often each fault is caused; default: as in rows.py"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help=f"rows that run at once; {AT_ONCE} by default"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
