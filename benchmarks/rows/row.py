"""What the rows of benchmarks/pipeline.py have in common: conditions, and how figures look."""

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
    """What a row is measured under."""

    scratch: Path
    photographs: Path | None
    """A tar file; None: small pictures that the web makes."""
    rounds: int
    database: str
    scale: float
    """Of all counts and times: less than 1 for a look, whose figures say nothing."""

    def web(self, script: Script, *, small: bool = False) -> contextlib.AbstractContextManager[Web]:
        return playing(script, None if small else self.photographs)

    @contextlib.contextmanager
    def installed(self, wanted: Mapping[str, str]) -> Iterator[Installation]:
        """With what `RESNEXT_` variables of our own environment say before what a row wants."""
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
    """One contender's figures, a round each."""

    name: str
    values: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Of an image, where that is asked as well."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def note(self, value: float, unit: str) -> None:
        self.values.append(value)
        tell(f"{self.name}, {len(self.values)}: {shown(value)} {unit}")


def verdict(what: str, values: Sequence[float], mark: float, *, least: bool = True) -> str:
    """Whether the median of these is on the right side of the mark."""
    median = statistics.median(values)
    met = median >= mark if least else median <= mark
    sign = "≥" if least else "≤"
    return (
        f"{what} {shown(median)} ({spread(values)}); mark {sign} {mark:g}: "
        f"{'met' if met else 'MISSED'}"
    )


def ratios(ours: Series, peer: Series) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(ours.values, peer.values, strict=True)]


def comparison(title: str, unit: str, ours: Series, peers: Sequence[Series], mark: float) -> Table:
    """Ours beside its peers; the best of them is what the mark is about."""
    best = max(peers, key=lambda peer: peer.median)
    cpu = ["CPU ms an image", "spread"] if ours.cpu_ms else []
    table = Table("", unit, "spread", "ours to it", "spread", *cpu, title=title)
    for one in (ours, *peers):
        times = ratios(ours, one)
        cells = [one.name, shown(one.median), spread(one.values)]
        cells += ["", ""] if one is ours else [shown(statistics.median(times)), spread(times)]
        cells += [shown(statistics.median(one.cpu_ms)), spread(one.cpu_ms)] if cpu else []
        table.add_row(*cells)
    table.caption = verdict(f"ours to {best.name}:", ratios(ours, best), mark)
    return table
