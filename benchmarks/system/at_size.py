"""Measures a job of ten million images, with a thousand small jobs beside it.

    make bench-size
    python -m benchmarks.system.at_size [--images N] [--small-jobs N] [--seconds S]

Runs a whole installation on PostgreSQL: the real `submit` and dispatcher, and a real worker with
simulated network and device (netless_worker.py). The client submits the small jobs, the command
submits the large one from a file. Then the worker starts. While it works through the small jobs,
and then through the large one, jobs of ten images are submitted behind all of them. Last comes
`submit` on SQLite, beside another writer. Prints one table with the marks.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, insert, select, text, update

from benchmarks.rig.child import Child
from benchmarks.rig.figures import shown, spread, tell
from benchmarks.rig.installation import RANDOM_WEIGHTS, Installation, installed
from benchmarks.rig.machine import machine
from benchmarks.rig.processes import cpu_s, pss_bytes
from contract.broker.connection import make_celery, redis_of
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, results, workers
from contract.settings import Settings
from producer.jobs.job import find_job, live_workers
from producer.submit.submission import submit

DEVICE_IMAGES_S = 2_000
# One chunk each. While there are many of them, the dispatcher must be fair to that many jobs.
SMALL_JOB_IMAGES = 64
FEW_IMAGES = 10
FEW_ROUNDS = 3
# A tenth, because SQLite is for one machine, and its database is on the same disk.
SQLITE_PART = 10
WRITER_PAUSE_S = 0.02
STATUS_PAUSE_S = 0.05
POLL_S = 0.02
WITHIN_S = 600.0
LINES_A_WRITE = 10_000

RATE_MARK, STATUS_MARK_MS, REDIS_MARK_MB, FIRST_MARK_S = 300_000, 20, 100, 5


@dataclass(frozen=True)
class Figure:
    """A line of the table; without a mark it is only for information."""

    what: str
    values: Sequence[float]
    unit: str
    mark: float | None = None
    least: bool = False
    """True if the figure must reach the mark; False if it must stay below it."""

    @property
    def verdict(self) -> str:
        if self.mark is None:
            return ""
        median = statistics.median(self.values)
        met = median >= self.mark if self.least else median < self.mark
        return (
            f"{'≥' if self.least else '<'} {self.mark:,} {self.unit}: {'met' if met else 'MISSED'}"
        )

    def cells(self) -> tuple[str, str, str, str]:
        several = spread(self.values) if len(self.values) > 1 else ""
        return (
            self.what,
            f"{shown(statistics.median(self.values))} {self.unit}",
            several,
            self.verdict,
        )


@dataclass
class Watch:
    """What is measured repeatedly while the worker works."""

    status_ms: list[float] = field(default_factory=list)
    dispatcher_share: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000_000, help="images of the large job")
    parser.add_argument("--small-jobs", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # this also stops everything
    title = f"{chosen.images:,} images in one job, {chosen.small_jobs:,} small jobs beside it"
    table = Table("", "figure", "spread", "mark", title=title)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
        listed = write_list(folder / "uris.txt", chosen.images)
        with installed(folder / "postgresql", RANDOM_WEIGHTS) as installation:
            for figure in on_postgresql(installation, listed, chosen):
                table.add_row(*figure.cells())
        few = write_list(folder / "uris.txt", math.ceil(chosen.images / SQLITE_PART))
        with installed(folder / "sqlite", RANDOM_WEIGHTS, database="sqlite") as installation:
            for figure in on_sqlite(installation, few, chosen.images // SQLITE_PART):
                table.add_row(*figure.cells())
    print(machine())
    Console(width=120).print(table)


def write_list(path: Path, images: int) -> Path:
    """Writes URIs like a crawl's: sorted by host, the rest without a pattern; 73 bytes per line."""
    seeded = random.Random(1)
    with path.open("w") as lines:
        for first in range(0, images, LINES_A_WRITE):
            number = min(LINES_A_WRITE, images - first)
            digits = seeded.randbytes(16 * number).hex()
            lines.writelines(
                f"https://images.site-{first // LINES_A_WRITE:06d}.example/"
                f"{digits[32 * n : 32 * n + 2]}/{digits[32 * n + 2 : 32 * n + 32]}.jpg\n"
                for n in range(number)
            )
    tell(f"{images:,} URIs are listed, {path.stat().st_size / 1e6:.0f} MB")
    return path


def on_postgresql(
    installation: Installation, listed: Path, chosen: argparse.Namespace
) -> Iterator[Figure]:
    dispatcher = installation.start("dispatch")
    installation.await_ready("dispatch")
    submit_small(installation, chosen.small_jobs)
    before_bytes = database_bytes(installation)
    large, submit_s = timed(lambda: installation.command("submit", str(listed)).strip())
    yield Figure("submit", [chosen.images / submit_s], "URIs/s", RATE_MARK, least=True)
    tell(f"the large job is submitted in {submit_s:.1f} s")
    grown_bytes = database_bytes(installation) - before_bytes
    yield Figure("database, per waiting image", [grown_bytes / chosen.images], "bytes")
    worker = netless_worker(installation)
    with worker:
        watch, first_s = looked_at(installation, dispatcher.pid, large, chosen.seconds)
        yield from watched(watch, "while the small jobs run")
        yield Figure("first result of ten images, behind all of them", [first_s], "s")
        await_small(installation, large)
        watch, first_s = looked_at(installation, dispatcher.pid, large, chosen.seconds)
        yield from watched(watch, "while the large job runs")
        more = [first_result_s(installation) for _ in range(FEW_ROUNDS - 1)]
        firsts = [first_s, *more]
        yield Figure("first result of ten images, behind it", firsts, "s", FIRST_MARK_S)
        yield Figure("dispatcher's memory (PSS)", [pss_bytes(dispatcher.pid) / 1e6], "MB")
        peak_mb = redis_peak_bytes(installation) / 1e6
        yield Figure("Redis's memory, peak", [peak_mb], "MB", REDIS_MARK_MB)
    yield Figure("database, per result", [bytes_a_result(installation)], "bytes")


def watched(watch: Watch, when: str) -> Iterator[Figure]:
    yield Figure(f"status, {when}", watch.status_ms, "ms", STATUS_MARK_MS)
    yield Figure(f"dispatcher's CPU, {when}", watch.dispatcher_share, "% of a core")


def timed(work: Callable[[], str]) -> tuple[str, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


def submit_small(installation: Installation, number: int) -> None:
    settings = Settings(weights=RANDOM_WEIGHTS["RESNEXT_WEIGHTS"])
    for n in range(number):
        uris = [(f"https://small-{n}.example/{k}.jpg", None) for k in range(SMALL_JOB_IMAGES)]
        submit(installation.engine, uris, settings=settings)
    tell(f"{number:,} small jobs are submitted")


def await_small(installation: Installation, large: str) -> None:
    """Waits until the large job is the only one."""
    others = select(func.count()).where(jobs.c.state == "running", jobs.c.id != large)
    await_true(lambda: ask(installation, others) == 0)
    tell("the small jobs are complete")


@contextmanager
def netless_worker(installation: Installation) -> Iterator[None]:
    log = installation.log("worker")
    environment = installation.environment
    rate = str(DEVICE_IMAGES_S)
    with Child("benchmarks.rig.netless_worker", rate, log=log, environment=environment) as child:
        installation.await_ready("worker", lambda: child.has_ended)
        yield


def looked_at(
    installation: Installation, dispatcher: int, job: str, seconds: float
) -> tuple[Watch, float]:
    """Measures for so long. Meanwhile submits a job of ten images and times its first result."""
    watch, first_s = Watch(), []
    submitting = threading.Thread(target=lambda: first_s.append(first_result_s(installation)))
    submitting.start()
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at or submitting.is_alive():
        began_at, began_s = time.monotonic(), cpu_s([dispatcher])
        for _ in range(round(1 / STATUS_PAUSE_S)):
            watch.status_ms.append(status_ms(installation, job))
            time.sleep(STATUS_PAUSE_S)
        spent_s = cpu_s([dispatcher]) - began_s
        watch.dispatcher_share.append(100 * spent_s / (time.monotonic() - began_at))
    if not first_s:
        raise RuntimeError("the job of ten images has no result")
    return watch, first_s[0]


def status_ms(installation: Installation, job: str) -> float:
    """The time of the queries that `status` sends, over one connection, in milliseconds."""
    with reading(installation.engine) as connection:
        connection.execute(select(1))
        began = time.monotonic()
        find_job(connection, job)
        live_workers(connection, 30.0)
        return 1000 * (time.monotonic() - began)


def first_result_s(installation: Installation) -> float:
    """Seconds from the start of `submit` to the first row in SQL, by the database's clock."""
    began_at = ask(installation, select(db_now()))
    job = installation.submit([f"https://few.example/{n}.jpg" for n in range(FEW_IMAGES)])
    of_job = results.join(jobs, results.c.job_number == jobs.c.number)
    first = select(func.min(results.c.settled_at)).select_from(of_job).where(jobs.c.id == job)
    await_true(lambda: ask(installation, first) is not None)
    check_classified(installation)
    seconds = (ask(installation, first) - began_at).total_seconds()
    tell(f"first result of ten images after {seconds:.1f} s")
    return float(seconds)


def check_classified(installation: Installation) -> None:
    """Checks that no image has failed: none should, and otherwise the figures are worthless."""
    failed = select(results.c.error_code).where(results.c.error_code.is_not(None)).limit(1)
    if (code := ask(installation, failed)) is not None:
        raise RuntimeError(f"an image has failed with {code!r}; see {installation.log('worker')}")


def ask(installation: Installation, statement: Any) -> Any:
    with reading(installation.engine) as connection:
        return connection.scalar(statement)


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WITHIN_S:.0f} s")
        time.sleep(POLL_S)


def database_bytes(installation: Installation) -> int:
    return int(ask(installation, text("SELECT pg_database_size(current_database())")))


def bytes_a_result(installation: Installation) -> float:
    """Bytes per result, including indexes."""
    size = ask(installation, text("SELECT pg_total_relation_size('results')"))
    return float(size / ask(installation, select(func.count()).select_from(results)))


def redis_peak_bytes(installation: Installation) -> int:
    app = make_celery(Settings(broker_url=installation.environment["RESNEXT_BROKER_URL"]))
    try:
        return int(redis_of(app).info("memory")["used_memory_peak"])
    finally:
        app.close()


def on_sqlite(installation: Installation, listed: Path, images: int) -> Iterator[Figure]:
    """Measures `submit` on SQLite while a worker's heartbeat is written."""
    waits_ms: list[float] = []
    ended = threading.Event()
    beating = threading.Thread(target=lambda: waits_ms.extend(beats_ms(installation, ended)))
    beating.start()
    try:
        _, submit_s = timed(lambda: installation.command("submit", str(listed)))
    finally:
        ended.set()
        beating.join()
    yield Figure("submit, SQLite", [images / submit_s], "URIs/s")
    yield Figure("another writer's transaction meanwhile", waits_ms, "ms")
    yield Figure("the longest of these", [max(waits_ms)], "ms")


def beats_ms(installation: Installation, ended: threading.Event) -> Iterator[float]:
    row = {"queue": "q", "device": "cpu", "precision": "fp32", "version": "0", "images_per_s": 0.0}
    times = {"started_at": db_now(), "heartbeat_at": db_now(), "stopping": False}
    with installation.engine.begin() as connection:
        connection.execute(insert(workers).values(name="other", **row, **times))
    while not ended.wait(WRITER_PAUSE_S):
        began = time.monotonic()
        with installation.engine.begin() as connection:
            connection.execute(update(workers).values(heartbeat_at=db_now()))
        yield 1000 * (time.monotonic() - began)


if __name__ == "__main__":
    main()
