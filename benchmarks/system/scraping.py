"""Measures a scrape of the dispatcher by Prometheus: CPU time of the dispatcher and of PostgreSQL.

    python -m benchmarks.system.scraping [--rounds N] [--scrapes N] [--jobs N] [--images N]
                                         [--finished N]

A real dispatcher leads, with running jobs whose chunks are due, finished jobs, and live workers
that take nothing. In turn, it is scraped over HTTP as often as it reads SQL again, and left alone
for the same time. The difference is the cost of a scrape. Prints for each database this cost, and
the share of a core if Prometheus asks every 15 s. It also prints the cost of the tick's own
counting, which is always on, and of a worker's answer.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from urllib.request import urlopen

from prometheus_client import generate_latest
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from benchmarks.rig.figures import spread, tell
from benchmarks.rig.installation import RANDOM_WEIGHTS, Installation, installed
from benchmarks.rig.machine import machine
from benchmarks.rig.processes import cpu_s
from contract.database.clock import db_now
from contract.database.tables import jobs, workers
from contract.failure import ERROR_CODES
from contract.metrics.exporter import new_registry
from contract.settings import Settings
from producer.dispatcher.metrics import READ_EVERY_S, Metrics
from producer.submit.submission import submit
from worker.chunk.live_runs import Runs
from worker.metrics.exporter import WorkerCollector
from worker.metrics.stages import Metrics as WorkerMetrics
from worker.pool.verdict import CAUSES
from worker.process.identity import Identity

DATABASES: Final = ("sqlite", "postgresql")
SCRAPE_EVERY_S: Final = 15.0
"""The default of Prometheus."""
WORKERS: Final = 4
TICKS: Final = 100_000
ANSWERS: Final = 1_000


@contextmanager
def leading(
    folder: Path, database: str, given: argparse.Namespace
) -> Iterator[tuple[list[int], str]]:
    """Runs a leading dispatcher; gives the processes to measure and its metrics' address."""
    wanted = RANDOM_WEIGHTS | {"RESNEXT_METRICS_PORT": "0"}
    with installed(folder / database, wanted, database=database) as installation:
        settings = Settings(weights=RANDOM_WEIGHTS["RESNEXT_WEIGHTS"], chunk_images=64)
        for _ in range(given.jobs):
            uris = ((f"https://a.example/{n}.jpg", None) for n in range(given.images))
            job = submit(installation.engine, uris, settings=settings)
        fill(installation, job, given.finished)
        dispatcher = installation.start("dispatch")
        installation.await_ready("dispatch")
        port = re.search(r"metrics on \S+, port (\d+)", installation.log("dispatch").read_text())
        assert port is not None
        url = f"http://127.0.0.1:{port[1]}/metrics"
        while f'resnext_workers{{queue="{queue_of(installation, job)}"}}' not in scrape(url):
            time.sleep(READ_EVERY_S)
        yield [dispatcher.pid, *installation._servers], url


def queue_of(installation: Installation, job: str) -> str:
    return installation.job(job).queue


def fill(installation: Installation, job: str, finished: int) -> None:
    """Inserts workers, and jobs that have ended."""
    queue = queue_of(installation, job)
    at_work = {
        "queue": queue, "device": "cpu", "precision": "fp32", "version": "0", "stopping": False,
        "images_per_s": 1000.0, "started_at": db_now(), "heartbeat_at": db_now(24 * 3600.0),
    }  # fmt: skip
    ended = {
        "owner": "me", "priority": 0, "state": "completed", "model": "m", "weights": "w",
        "precision": "amp", "queue": queue, "created_at": db_now(), "total": 1, "classified": 1,
        "failed": 0, "errors": {}, "images_per_s": 0.0,
    }  # fmt: skip
    with installation.engine.begin() as connection:
        for n in range(WORKERS):
            connection.execute(insert(workers).values(name=f"w{n}", **at_work))
        for n in range(finished):
            connection.execute(insert(jobs).values(id=f"ended{n}", **ended))


def scrape(url: str) -> str:
    with urlopen(url) as answer:
        text: str = answer.read().decode()
    return text


def measure(looked_at: list[int], url: str, scrapes: int) -> dict[str, float]:
    """CPU milliseconds per scrape, for the dispatcher and for the database server."""
    spent: dict[bool, list[float]] = {}
    for scraped in (True, False):
        before = [cpu_s([pid]) for pid in looked_at]
        for _ in range(scrapes):
            began = time.monotonic()
            if scraped:
                scrape(url)
            time.sleep(max(0.0, began + READ_EVERY_S + 0.05 - time.monotonic()))
        after = [cpu_s([pid]) for pid in looked_at]
        spent[scraped] = [late - early for early, late in zip(before, after, strict=True)]
    costs = [1000 * (a - b) / scrapes for a, b in zip(spent[True], spent[False], strict=True)]
    return dict(zip(("dispatcher", "server"), costs, strict=False))


def note_us() -> float:
    """CPU µs of a tick's counting, which happens even if nothing is scraped."""
    metrics = Metrics()
    began = time.process_time()
    for _ in range(TICKS):
        metrics.note_stored(["queue"])
        metrics.note_reaped(0)
        metrics.note_lost(0)
        metrics.note_published(8)
        metrics.note_tick(0.01, leads=True)
    return 1e6 * (time.process_time() - began) / TICKS


def answer_ms() -> float:
    """CPU milliseconds of a worker's answer with filled counters; it reads no SQL."""
    identity = Identity(
        worker="w",
        queue="q",
        device="cpu",
        precision="fp32",
        orientation="ignore",
        weights_sha256="a",
        model_number=1,
    )
    metrics = WorkerMetrics()
    metrics.note_stored(
        [], {("failed", code): 1 for code in ERROR_CODES} | {("classified", ""): 1}, store_s=0.1
    )
    runs = Runs(SimpleNamespace(), chunk_images=64, metrics=metrics)  # type: ignore[arg-type]
    registry = new_registry()
    registry.register(
        WorkerCollector(
            metrics,
            runs,
            identity,
            loader_restarts=lambda: dict.fromkeys(CAUSES, 0),
            device_memory=lambda: {"allocated": 1, "reserved": 1, "total": 1},
        )
    )
    began = time.process_time()
    for _ in range(ANSWERS):
        generate_latest(registry)
    return 1000 * (time.process_time() - began) / ANSWERS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scrapes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--finished", type=int, default=5_000)
    given = parser.parse_args()
    table = Table("database", "process", "CPU ms per scrape", "of a core, every 15 s")
    with tempfile.TemporaryDirectory() as folder:
        for database in DATABASES:
            tell(f"{database}: {given.jobs} jobs of {given.images:,} images")
            with leading(Path(folder), database, given) as (looked_at, url):
                rounds = [measure(looked_at, url, given.scrapes) for _ in range(given.rounds)]
            for process in rounds[0]:
                costs = [one[process] for one in rounds]
                share = statistics.median(costs) / 1000 / SCRAPE_EVERY_S
                shown = f"{statistics.median(costs):.1f} ({spread(costs)})"
                table.add_row(database, process, shown, f"{share:.3%}")
    console = Console()
    console.print(machine())
    console.print(table)
    console.print(f"a tick's counting: {note_us():.1f} µs of CPU")
    console.print(f"a worker's answer: {answer_ms():.1f} ms of CPU, without HTTP")


if __name__ == "__main__":
    main()
