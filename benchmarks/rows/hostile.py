"""Rows with hostile URIs: what they cost the good URIs in the same job.

Called by benchmarks/pipeline.py. With a device that takes no time, the machine is the limit: every
millisecond for a trap is missing for good images. With a device of half that speed, the device is
the limit, as it should be. Each image is tried once.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.rig.figures import shown, spread
from benchmarks.rig.installation import RANDOM_WEIGHTS, Done, Installation
from benchmarks.rig.traps import QUICK, SLOW, Traps, setting_traps
from benchmarks.rig.web import NO_FAULTS, Script, Web
from benchmarks.rows.row import Conditions, Series, ratios, verdict

GOOD_IMAGES = 1_000
SLOW_SHARE = 0.03
HALF = 2


@dataclass
class Place:
    """A web that answers at once, traps, and an installation without a worker."""

    web: Web
    traps: Traps
    installation: Installation
    good: int
    """A job's images that are not traps."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def worker(self, images_s: float) -> Iterator[None]:
        """Runs a worker with a device of this speed; yields when its rate is known."""
        with self.installation.simulated_worker(images_s, f"worker-{next(self._numbers)}"):
            self.run(0, QUICK)
            yield

    def run(self, traps: int, kinds: tuple[str, ...]) -> Done:
        """Runs a job of the good images and so many traps.

        Raises:
            RuntimeError: a good image has no classes.
        """
        uris = self.web.uris(self.good, next(self._numbers) * self.good)
        done = self.installation.run(interleave(uris, self.traps.uris(traps, kinds)))
        if done.classified != self.good:
            raise RuntimeError(f"{done.classified} of {self.good} good images are classified")
        return done


@contextmanager
def prepared(conditions: Conditions) -> Iterator[Place]:
    wanted = RANDOM_WEIGHTS | {"RESNEXT_MAX_ATTEMPTS": "1"}
    with (
        conditions.web(Script(**NO_FAULTS | {"latency_ms": 0.0})) as web,
        setting_traps() as traps,
        conditions.installed(wanted) as installation,
    ):
        installation.start("dispatch")
        yield Place(web, traps, installation, conditions.images(GOOD_IMAGES))


def quick_traps(conditions: Conditions) -> Table:
    """Half of a job's URIs are traps that are given up at once. The peer is the good half alone."""
    columns = ("the good half alone", "spread", "with as many traps", "spread", "ratio", "spread")
    table = Table("device", *columns, title="Good images/s beside URIs that fail at once")
    verdicts, images_s = [], 0.0
    with prepared(conditions) as place:
        for device in ("takes no time", "has half that speed"):
            alone, with_them = Series(f"alone, device {device}"), Series(f"traps, device {device}")
            with place.worker(images_s):
                for _ in range(conditions.rounds):
                    for series, traps in ((alone, 0), (with_them, place.good)):
                        done = place.run(traps, QUICK)
                        series.note(place.good / done.seconds, "good images/s")
            times = ratios(with_them, alone)
            cells = (shown(alone.median), spread(alone.values), shown(with_them.median))
            ratio = (f"{statistics.median(times):.2f}", spread(times))
            table.add_row(device, *cells, spread(with_them.values), *ratio)
            verdicts.append(verdict(f"device {device}:", times, 0.9))
            images_s = alone.median / HALF
        burden = place.web.burden()
    table.caption = "\n".join([*verdicts, f"{place.good:,} good images per round; {burden}"])
    return table


def slow_traps(conditions: Conditions) -> Table:
    """A few URIs hang, send a byte per second (until the deadline of 20 s), or are bombs."""
    with prepared(conditions) as place, place.worker(0):
        slow = round(place.good * SLOW_SHARE)
        title = f"Slow URIs, {slow} beside {place.good:,} good ones"
        table = Table("", "good images/s", "spread", "last row after s", "spread", title=title)
        for kind in ("none", *SLOW):
            rate, last_s = Series(kind), Series(f"{kind}, last row")
            for _ in range(conditions.rounds):
                done = place.run(0 if kind == "none" else slow, (kind,))
                rate.note(place.good / done.classified_within_s, "good images/s")
                last_s.note(done.seconds, "s")
            cells = (shown(rate.median), spread(rate.values), shown(last_s.median))
            table.add_row(kind, *cells, spread(last_s.values))
        burden = place.web.burden()
    table.caption = f"until the last good image's row, and until the last row\n{burden}"
    return table


def interleave(good: list[str], traps: list[str]) -> list[str]:
    """Mixes good URIs and traps, so that each chunk has its share of both."""
    every = max(1, len(good) // max(1, len(traps)))
    rest, mixed = iter(traps), []
    for n, uri in enumerate(good):
        mixed += [uri, *itertools.islice(rest, n % every == 0)]
    return [*mixed, *rest]
