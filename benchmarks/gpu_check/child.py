"""A step's process, which `runner` starts. Its exit status is 0 if the step ran to its end."""

from __future__ import annotations

import argparse
from pathlib import Path
from pkgutil import resolve_name

from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import FINDINGS, Check, Given, die_with_parent


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    parser.add_argument("check")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--ends-at", type=float, required=True)
    parser.add_argument("--patience", type=float, default=1.0)
    asked = parser.parse_args()
    report = Report(asked.out / FINDINGS, asked.step)
    check: Check = resolve_name(asked.check)
    given = Given(
        out=asked.out, scratch=asked.scratch, ends_at=asked.ends_at, patience=asked.patience
    )
    try:
        check(given, report)
    except NotHereError as why:
        report.skip("", str(why))


if __name__ == "__main__":
    main()
