"""The findings of a step: figures and marks, one line of JSON each, in a file that survives it.

A step's process writes them as it goes, so they are kept if it crashes. `runner` and later steps
read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["PASS", "FAIL", "SKIP", "NOTE"]


class NotHereError(Exception):
    """This machine cannot run the step; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure. `NOTE`: it has no mark."""

    step: str
    what: str
    verdict: Verdict = "NOTE"
    value: float | None = None
    unit: str = ""
    mark: str = ""
    text: str = ""
    """Text instead of a value, or why there is no value."""
    details: dict[str, Any] = field(default_factory=dict)
    """Shown only in the file."""

    def __str__(self) -> str:
        found = self.text if self.value is None else f"{number(self.value)} {self.unit}".strip()
        told = f"{self.what} {found}".strip()
        told = f"{told} (mark {self.mark})" if self.mark else told
        return told if self.verdict in {"PASS", "NOTE"} else f"{self.verdict} {told}"


def number(value: float) -> str:
    """A number with three significant digits."""
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    if abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


class Report:
    """Owns one step's lines in the file."""

    def __init__(self, path: Path, step: str) -> None:
        self._path = path
        self._step = step

    def note(self, what: str, value: float | None = None, unit: str = "", **more: Any) -> None:
        self._add(what=what, value=value, unit=unit, **more)

    def skip(self, what: str, why: str) -> None:
        self._add(what=what, verdict="SKIP", text=why)

    def at_least(self, what: str, value: float, mark: float, unit: str = "", **more: Any) -> bool:
        return self._mark(what, value, f"≥ {number(mark)}", unit, met=value >= mark, **more)

    def at_most(self, what: str, value: float, mark: float, unit: str = "", **more: Any) -> bool:
        """A NaN misses the mark."""
        return self._mark(what, value, f"≤ {number(mark)}", unit, met=value <= mark, **more)

    def must(self, what: str, met: bool, text: str = "", **more: Any) -> bool:  # noqa: FBT001
        self._add(what=what, verdict="PASS" if met else "FAIL", text=text, **more)
        return met

    def _mark(
        self, what: str, value: float, mark: str, unit: str, *, met: bool, **more: Any
    ) -> bool:
        verdict: Verdict = "PASS" if met else "FAIL"
        self._add(what=what, verdict=verdict, value=float(value), unit=unit, mark=mark, **more)
        return met

    def _add(self, **fields: Any) -> None:
        line = json.dumps(asdict(Finding(step=self._step, **fields)))
        with self._path.open("a") as file:
            file.write(f"{line}\n")


def read_findings(path: Path, step: str) -> list[Finding]:
    """The findings of the step's last run, which may be incomplete."""
    found: list[Finding] = []
    for line in _lines(path):
        if line.get("began") == step:
            found = []
        elif "what" in line and line["step"] == step:
            found.append(Finding(**line))
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the step was ended while it wrote
                continue
