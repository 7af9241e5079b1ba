"""Rows that measure a job while it runs: busy devices, CPU, memory, hanging URIs, more workers.

Called by benchmarks/pipeline.py. The job is larger than the part that is measured, so neither its
beginning nor its end counts. The devices are simulated (see simulated_worker.py).
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
# More than a core loads in a second, whatever the pictures. Jobs are sized by this.
MOST_IMAGES_S = 1_000 * CORES
# The same for photographs.
MOST_PHOTOGRAPHS_S = 500 * CORES
# The most images that a dozen workers hold before anything is stored.
IN_HAND = 20_000
# By then the first hanging URIs have reached their deadline, so their number stays the same.
WARM_S = 30.0
WINDOW_S = 10.0
# By then the first URIs have hung three times, so the number of hanging URIs stays the same.
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
    """All counts since the start."""

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
        """Images/s stored in SQL."""
        return (self.after.classified - self.before.classified) / self.seconds

    @property
    def images_s(self) -> float:
        """Images/s that the devices have taken."""
        return sum(self._a_second("images"))

    @property
    def busy_shares(self) -> list[float]:
        """The busy share of each device."""
        return self._a_second("busy_s")

    @property
    def pace(self) -> dict[str, float]:
        """The first worker's pace. Its CPU time depends on how often it is woken."""
        before, after = self.before.devices[0], self.after.devices[0]
        images, batches, switches = (
            after[what] - before[what] for what in ("images", "batches", "switches")
        )
        return {
            "images/s": self.images_s,
            "images per batch": images / batches,
            "thread switches per image": switches / images,
        }

    def cpu_us(self) -> dict[str, float]:
        """CPU µs per image of the first worker's main process, by part."""
        before, after = self.before.devices[0], self.after.devices[0]
        images = after["images"] - before["images"]
        return {
            part: 1e6 * (seconds - before["cpu_s"].get(part, 0.0)) / images
            for part, seconds in after["cpu_s"].items()
        }

    def _a_second(self, what: str) -> list[float]:
        """A rate per second for each device, by its own worker's clock."""
        pairs = zip(self.before.devices, self.after.devices, strict=True)
        return [(b[what] - a[what]) / (b["at"] - a["at"]) for a, b in pairs]


@dataclass(frozen=True)
class UnderWay:
    """A running job."""

    web: Web
    installation: Installation
    workers: list[Child]
    job: str

    def settled(self) -> int:
        """The number of finished images, classified or failed."""
        job = self.installation.job(self.job)
        return job.classified + job.failed

    def sample(self) -> Sample:
        devices = [worker.ask() for worker in self.workers]
        at, job = time.monotonic(), self.installation.job(self.job)
        if not job.pending:
            raise RuntimeError(f"the job of {job.total} images ended before it was measured")
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
def under_way(  # noqa: PLR0913  (a row's options for its job)
    conditions: Conditions,
    script: Script,
    devices: Sequence[float],
    *,
    images: int,
    small: bool = False,
    wanted: Mapping[str, str] | None = None,
) -> Iterator[UnderWay]:
    """Runs a job with one worker per device. `devices` are images/s; 0: a device takes no time."""
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
    """Images/s that reach a device that takes no time."""
    ceiling, rounds = Series("the pipeline's ceiling"), conditions.rounds
    images = enough_images(conditions, rounds)
    with under_way(conditions, script, [0], images=images) as job:
        for window in job.windows(conditions, rounds):
            ceiling.note(window.images_s, "images/s")
    return ceiling.median


def busy_share(conditions: Conditions) -> Table:
    """How busy the pipeline keeps a device with half of the pipeline's speed."""
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
    """CPU time of the worker's main process if the classifier costs nothing."""
    by_chunk = {chunk: _cpu_us(conditions, chunk) for chunk in CHUNKS}
    columns = [column for chunk in CHUNKS for column in (f"µs, chunks of {chunk}", "spread")]
    table = Table("", *columns, title="CPU of the worker's main process, per image")
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
    """CPU µs by part. Small pictures come at once, so work done once per second counts little."""
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
            tell(f"chunks of {chunk}: {shown(window.images_s)} images/s, {all_us:.0f} µs per image")
            for part, value in sorted(parts.items()):
                found[part].append(value)
            found[WITHOUT_MODEL].append(all_us - parts[GATHER])
            found["all"].append(all_us)
            for what, value in window.pace.items():
                found[what].append(value)
    return dict(found)


def hanging(conditions: Conditions) -> Table:
    """A fast device, with hanging URIs and without."""
    with_them, without = Series(f"{HANGING:.0%} of the URIs hang"), Series("no URI hangs")
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
    """Memory of the whole worker after many images of one job."""
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
    """Several workers on one queue, each with a device of a sixteenth of the ceiling."""
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
