"""Rows that look at a job while it is under way: busy devices, CPU, memory, hanging URIs, workers.

Called by benchmarks/pipeline.py. The job is larger than what is looked at, so that neither its
beginning nor its end counts; the devices are simulated (see simulated_worker.py).
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.rig.child import Child
from benchmarks.rig.figures import shown, spread, tell
from benchmarks.rig.installation import RANDOM_WEIGHTS, Installation
from benchmarks.rig.processes import pss_bytes
from benchmarks.rig.simulated_worker import GATHER
from benchmarks.rig.web import NO_FAULTS, Script, Web
from benchmarks.rows.row import Conditions, Series, comparison, ratios, verdict

CORES = len(os.sched_getaffinity(0))
# More than a core loads in a second, whatever the pictures: what a job is sized by.
MOST_IMAGES_S = 1_000 * CORES
# The same of photographs.
MOST_PHOTOGRAPHS_S = 500 * CORES
# In hand at most before anything is stored, times what a dozen workers may have.
IN_HAND = 20_000
# By then the first URIs that hang have run into their deadline, so as many come as go.
WARM_S = 30.0
WINDOW_S = 10.0
# By then the first URIs have hung three times, and as many come as go for the last time.
HANGING_LOOK = {"warm_s": 80.0, "window_s": 20.0}
POLL_S = 0.2
HALF_BUSY, FEWER = 2, 16
WORKERS = {2: 1.95, 8: 7.5}
FAST_DEVICE_IMAGES_S = 3_000
HANGING = 0.03
FEW_IMAGES, MANY_IMAGES = 10_000, 100_000
PSS_LOOKS = 9
CPU_MARK_US = 50.0
CHUNKS = (64, 256)
# Gathered pixels are the model's input; the mark is for the rest.
WITHOUT_MODEL = f"all but {GATHER}"


@dataclass(frozen=True)
class Sample:
    """All counts from the start on."""

    at: float
    classified: int
    devices: list[dict[str, Any]]


@dataclass(frozen=True)
class Window:
    before: Sample
    after: Sample

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    @property
    def classified_s(self) -> float:
        """Images/s that have come to SQL."""
        return (self.after.classified - self.before.classified) / self.seconds

    @property
    def images_s(self) -> float:
        """That the devices have taken."""
        return sum(self._a_second("images"))

    @property
    def busy_shares(self) -> list[float]:
        """Of each device."""
        return self._a_second("busy_s")

    @property
    def pace(self) -> dict[str, float]:
        """Of the first worker: how seldom it is woken is what its CPU depends on."""
        before, after = self.before.devices[0], self.after.devices[0]
        images, batches, switches = (
            after[what] - before[what] for what in ("images", "batches", "switches")
        )
        return {
            "images/s": self.images_s,
            "images a batch": images / batches,
            "switches of threads an image": switches / images,
        }

    def cpu_us(self) -> dict[str, float]:
        """Of the first worker's main process, an image and part."""
        before, after = self.before.devices[0], self.after.devices[0]
        images = after["images"] - before["images"]
        return {
            part: 1e6 * (seconds - before["cpu_s"].get(part, 0.0)) / images
            for part, seconds in after["cpu_s"].items()
        }

    def _a_second(self, what: str) -> list[float]:
        """Of each device, by its own worker's clock."""
        pairs = zip(self.before.devices, self.after.devices, strict=True)
        return [(b[what] - a[what]) / (b["at"] - a["at"]) for a, b in pairs]


@dataclass(frozen=True)
class UnderWay:
    """A job at work."""

    web: Web
    installation: Installation
    workers: list[Child]
    job: str

    def settled(self) -> int:
        """Images that are done, however."""
        job = self.installation.job(self.job)
        return job.classified + job.failed

    def sample(self) -> Sample:
        devices = [worker.ask() for worker in self.workers]
        at, job = time.monotonic(), self.installation.job(self.job)
        if not job.pending:
            raise RuntimeError(f"the job of {job.total} images was done before it was looked at")
        return Sample(at, job.classified, devices)

    def windows(
        self,
        conditions: Conditions,
        rounds: int,
        *,
        warm_s: float = WARM_S,
        window_s: float = WINDOW_S,
    ) -> Iterator[Window]:
        while not self.sample().classified:
            time.sleep(POLL_S)
        time.sleep(conditions.seconds(warm_s))
        before = self.sample()
        for _ in range(rounds):
            time.sleep(conditions.seconds(window_s))
            after = self.sample()
            yield Window(before, after)
            before = after


@contextmanager
def under_way(  # noqa: PLR0913  (what a row says of its job)
    conditions: Conditions,
    script: Script,
    devices: Sequence[float],
    *,
    images: int,
    small: bool = False,
    wanted: Mapping[str, str] | None = None,
) -> Iterator[UnderWay]:
    """A job on one worker for each device, whose images/s are given; 0: it takes no time."""
    with ExitStack() as stack:
        web = stack.enter_context(conditions.web(script, small=small))
        installation = stack.enter_context(
            conditions.installed({**RANDOM_WEIGHTS, **(wanted or {})})
        )
        job = installation.submit(web.uris(images))
        workers = [
            stack.enter_context(installation.simulated_worker(images_s, f"worker-{n}"))
            for n, images_s in enumerate(devices)
        ]
        installation.start("dispatch")
        yield UnderWay(web, installation, workers, job)


def enough_images(
    conditions: Conditions,
    rounds: int,
    images_s: float = MOST_IMAGES_S,
    *,
    warm_s: float = WARM_S,
    window_s: float = WINDOW_S,
) -> int:
    seconds = conditions.seconds(warm_s + rounds * window_s)
    return round(1.2 * seconds * images_s) + conditions.images(IN_HAND)


def find_ceiling(conditions: Conditions, script: Script) -> float:
    """Images/s that come to a device which takes no time."""
    ceiling, rounds = Series("the pipeline's ceiling"), conditions.rounds
    images = enough_images(conditions, rounds)
    with under_way(conditions, script, [0], images=images) as job:
        for window in job.windows(conditions, rounds):
            ceiling.note(window.images_s, "images/s")
    return ceiling.median


def busy_share(conditions: Conditions) -> Table:
    """A device that takes half of what the pipeline could give it."""
    script = Script()
    ceiling = find_ceiling(conditions, script)
    share, stored = Series("busy"), Series("classified")
    images = enough_images(conditions, conditions.rounds, ceiling)
    with under_way(conditions, script, [ceiling / HALF_BUSY], images=images) as job:
        for window in job.windows(conditions, conditions.rounds):
            share.note(100 * window.busy_shares[0], "% busy")
            stored.values.append(window.classified_s)
        burden = job.web.burden()
    table = Table("", "median", "spread", title="A simulated device at half the pipeline's ceiling")
    table.add_row("the ceiling, images/s", shown(ceiling), "")
    table.add_row("the device, images/s at most", shown(ceiling / HALF_BUSY), "")
    table.add_row("classified, images/s", shown(stored.median), spread(stored.values))
    table.add_row("the device is busy, % of the time", shown(share.median), spread(share.values))
    table.caption = f"{verdict('busy, %:', share.values, 97)}\n{burden}"
    return table


def main_process_cpu(conditions: Conditions) -> Table:
    """CPU of the worker's main process where the classifier costs nothing."""
    by_chunk = {chunk: _cpu_us(conditions, chunk) for chunk in CHUNKS}
    columns = [column for chunk in CHUNKS for column in (f"µs, chunks of {chunk}", "spread")]
    table = Table("", *columns, title="CPU of the worker's main process, an image")
    for part in by_chunk[CHUNKS[0]]:
        values = [by_chunk[chunk][part] for chunk in CHUNKS]
        table.add_row(
            part, *(cell for v in values for cell in (shown(statistics.median(v)), spread(v)))
        )
    table.caption = "\n".join(
        verdict(f"µs, chunks of {chunk}:", by_chunk[chunk][WITHOUT_MODEL], CPU_MARK_US, least=False)
        for chunk in CHUNKS
    )
    return table


def _cpu_us(conditions: Conditions, chunk: int) -> dict[str, list[float]]:
    """By part; small pictures at once, so that what is done once a second counts little."""
    found: dict[str, list[float]] = defaultdict(list)
    script, images = (
        Script(latency_ms=0.0, **NO_FAULTS),
        enough_images(conditions, conditions.rounds),
    )
    wanted = {"RESNEXT_CHUNK_IMAGES": str(chunk)}
    with under_way(conditions, script, [0], images=images, small=True, wanted=wanted) as job:
        for window in job.windows(conditions, conditions.rounds):
            parts = window.cpu_us()
            all_us = sum(parts.values())
            tell(f"chunks of {chunk}: {shown(window.images_s)} images/s, {all_us:.0f} µs an image")
            for part, value in sorted(parts.items()):
                found[part].append(value)
            found[WITHOUT_MODEL].append(all_us - parts[GATHER])
            found["all"].append(all_us)
            for what, value in window.pace.items():
                found[what].append(value)
    return dict(found)


def hanging(conditions: Conditions) -> Table:
    """A fast device, with URIs that hang and without."""
    with_them, without = Series(f"{HANGING:.0%} of the URIs hang"), Series("none hangs")
    for _ in range(conditions.rounds):
        for series, share in ((without, 0.0), (with_them, HANGING)):
            script = Script(**NO_FAULTS | {"latency_ms": 0.0, "hang": share})
            images = enough_images(conditions, 1, MOST_PHOTOGRAPHS_S, **HANGING_LOOK)
            with under_way(conditions, script, [FAST_DEVICE_IMAGES_S], images=images) as job:
                (window,) = job.windows(conditions, 1, **HANGING_LOOK)
                series.note(window.classified_s, "classified/s")
                burden = job.web.burden()
    title = f"URIs that hang, a device of {FAST_DEVICE_IMAGES_S:,} images/s"
    table = comparison(title, "classified/s", with_them, [without], 0.9)
    table.caption = f"{table.caption}\n{burden}"
    return table


def memory(conditions: Conditions) -> Table:
    """The whole worker's, of a job that goes on."""
    few, many = conditions.images(FEW_IMAGES), conditions.images(MANY_IMAGES)
    script = Script(latency_ms=0.0, **NO_FAULTS)
    table = Table("after images", "MB", "spread", title="Memory of the whole worker (PSS)")
    found = []
    with under_way(
        conditions, script, [0], images=many + conditions.images(IN_HAND), small=True
    ) as job:
        for images in (few, many):
            while job.settled() < images:
                time.sleep(POLL_S)
            sizes = [pss_bytes(job.workers[0].pid) / 1e6 for _ in range(PSS_LOOKS)]
            tell(f"after {images:,} images: {statistics.median(sizes):.1f} MB")
            found.append(sizes)
            table.add_row(f"{images:,}", f"{statistics.median(sizes):.1f}", spread(sizes))
    growth = [100 * (b / statistics.median(found[0]) - 1) for b in found[1]]
    table.caption = verdict("growth, %:", growth, 5, least=False)
    return table


def more_workers(conditions: Conditions) -> Table:
    """One queue, and devices of a sixteenth of the ceiling each."""
    script = Script(**NO_FAULTS)
    device_images_s = find_ceiling(conditions, script) / FEWER
    series = {n: Series(f"{n} workers" if n > 1 else "1 worker") for n in (1, *WORKERS)}
    for n, one in series.items():
        images = enough_images(conditions, conditions.rounds, n * device_images_s)
        with under_way(conditions, script, [device_images_s] * n, images=images) as job:
            for window in job.windows(conditions, conditions.rounds):
                one.note(sum(window.busy_shares) * device_images_s, "images/s")
    title = f"Workers on one queue, each with a device of {shown(device_images_s)} images/s"
    table = Table("", "images/s", "spread", "to one worker", "spread", title=title)
    for one in series.values():
        times = ratios(one, series[1])
        cells = (shown(statistics.median(times)), spread(times))
        table.add_row(one.name, shown(one.median), spread(one.values), *cells)
    table.caption = "\n".join(
        verdict(f"{n} workers to one:", ratios(series[n], series[1]), mark)
        for n, mark in WORKERS.items()
    )
    return table
