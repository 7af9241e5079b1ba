"""Prints the tables of docs/scaling.md, or writes them there.

    python -m benchmarks.simulation [--calibration FILE] [--write]

Takes a minute. The file is what `python -m benchmarks.system.fleet --calibrate FILE` has written.
Exit status 1 where the simulation differs from a measured run by more than 10%.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from benchmarks.rig.child import ROOT
from benchmarks.simulation.calibration import FILE, costs_of, read, rows_for
from benchmarks.simulation.model import simulate
from benchmarks.simulation.tables import all_tables, as_measured, costs_alone, difference

DOCUMENT: Final = ROOT / "docs" / "scaling.md"
MOST: Final = 0.10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation")
    parser.add_argument("--calibration", type=Path, default=FILE)
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    chosen = parser.parse_args()
    measured = read(chosen.calibration)
    costs = costs_of(measured)
    tables = all_tables(measured, costs)
    if chosen.write:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), tables))
    for name, table in tables.items():
        print(f"{name}\n\n{table}")
    differences = [
        abs(difference(row, simulate(as_measured(row, measured["cores"]), costs_alone(costs))))
        for row in rows_for(measured, "comparison")
    ]
    met = max(differences) <= MOST
    print(f"differs by {max(differences):.1%} at most; mark 10%: {'met' if met else 'MISSED'}")
    return 0 if met else 1


def with_tables(text: str, tables: dict[str, str]) -> str:
    """The document with each table between its two marks."""
    for name, table in tables.items():
        begin, end = f"<!-- table {name} -->\n", "<!-- end -->\n"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text, found = pattern.subn(lambda _, new=begin + "\n" + table + "\n" + end: new, text)
        if found != 1:
            raise ValueError(f"{DOCUMENT.name} has {found} places for the table {name}")
    return text


if __name__ == "__main__":
    sys.exit(main())
