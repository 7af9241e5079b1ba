"""Shows results: a paragraph per step for a terminal, a table in Markdown for the docs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks.gpu_check.report import Finding
from benchmarks.gpu_check.runner import Result

WIDTH = 80


def paragraph(result: Result) -> str:
    """A step's verdict and figures, failures first."""
    head = f"{result.verdict}  {result.step}, {result.seconds:.0f} s"
    said = "; ".join([*([result.why] if result.why else []), *map(str, _ordered(result.findings))])
    text = f"{head}: {said}" if said else head
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * 6, break_long_words=False)


def markdown(machine: str, results: Sequence[Result]) -> str:
    rows = [
        f"| {result.step} | {result.verdict} | {result.seconds:.0f} | {_cell(result)} |"
        for result in results
    ]
    return "\n".join(
        [machine, "", "| step | verdict | seconds | figures |", "|---|---|---|---|", *rows, ""]
    )


def _cell(result: Result) -> str:
    said = [*([result.why] if result.why else []), *map(str, _ordered(result.findings))]
    return "; ".join(said).replace("|", "\\|")


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Sorts the failed ones to the front."""
    place = {"FAIL": 0, "PASS": 1, "NOTE": 2, "SKIP": 3}
    return sorted(findings, key=lambda finding: place[finding.verdict])
