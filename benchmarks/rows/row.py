"""The common part of the rows in benchmarks/pipeline.py: conditions, and the look of figures."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks.rig.figures import shown, spread, tell
from benchmarks.rig.installation import Installation, installed
from benchmarks.rig.web import Script, Web, playing


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions for measuring a row."""

    scratch: Path
    photographs: Path | None
    """A tar file; None: small pictures that the web makes."""
    rounds: int
    database: str
    scale: float
    """Multiplies all counts and times. Below 1 only for a quick try: such figures mean nothing."""

    def web(self, script: Script, *, small: bool = False) -> contextlib.AbstractContextManager[Web]:
        return playing(script, None if small else self.photographs)

    @contextlib.contextmanager
    def installed(self, wanted: Mapping[str, str]) -> Iterator[Installation]:
        """Makes an installation. `RESNEXT_` variables of our environment override the row's."""
        set_by_user = {name for name in os.environ if name.startswith("RESNEXT_")}
        wanted = {name: wanted[name] for name in wanted if name not in set_by_user}
        folder = self.scratch / f"installation-{time.monotonic_ns()}"
        with installed(folder, wanted, database=self.database) as installation:
            yield installation

    def images(self, number: int) -> int:
        return max(20, round(number * self.scale))

    def seconds(self, seconds: float) -> float:
        return seconds * self.scale


@dataclass(frozen=True)
class Row:
    """One figure with its mark."""

    title: str
    minutes_a_round: float
    measure: Callable[[Conditions], Table]


@dataclass
class Series:
    """One contender's figures, one per round."""

    name: str
    values: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """CPU milliseconds per image, in rows that measure them."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def note(self, value: float, unit: str) -> None:
        self.values.append(value)
        tell(f"{self.name}, {len(self.values)}: {shown(value)} {unit}")


def verdict(what: str, values: Sequence[float], mark: float, *, least: bool = True) -> str:
    """Says whether the values' median meets the mark."""
    median = statistics.median(values)
    met = median >= mark if least else median <= mark
    sign = "≥" if least else "≤"
    return (
        f"{what} {shown(median)} ({spread(values)}); mark {sign} {mark:g}: "
        f"{'met' if met else 'MISSED'}"
    )


def ratios(ours: Series, peer: Series) -> list[float]:
    """Ratios, round by round."""
    return [a / b for a, b in zip(ours.values, peer.values, strict=True)]


def comparison(title: str, unit: str, ours: Series, peers: Sequence[Series], mark: float) -> Table:
    """Makes a table of ours and its peers. The mark applies to the best peer."""
    best = max(peers, key=lambda peer: peer.median)
    cpu = ["CPU ms per image", "spread"] if ours.cpu_ms else []
    table = Table("", unit, "spread", "ours to it", "spread", *cpu, title=title)
    for one in (ours, *peers):
        times = ratios(ours, one)
        cells = [one.name, shown(one.median), spread(one.values)]
        cells += ["", ""] if one is ours else [shown(statistics.median(times)), spread(times)]
        cells += [shown(statistics.median(one.cpu_ms)), spread(one.cpu_ms)] if cpu else []
        table.add_row(*cells)
    table.caption = verdict(f"ours to {best.name}:", ratios(ours, best), mark)
    return table
