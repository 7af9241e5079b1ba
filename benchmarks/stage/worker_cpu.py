"""Measures the CPU time per image of the worker's main process, by part, at full load.

    python -m benchmarks.stage.worker_cpu [--rounds N] [--images N] [--batch N] [--database NAME]
                                          [--thumbnails N] [--chunk N]

Runs a whole worker on SQLite and on PostgreSQL, with Celery and a real broker. Its loaders have
every picture instantly and its device takes no time (benchmarks/rig/instant_worker.py), so the main
process is the only limit. Each round submits a job, queues all of it like the dispatcher, and waits
until all rows are in SQL. Prints, for each database and chunk length, the median over the rounds
and the spread, in microseconds of CPU time per image. Databases and lengths take turns within a
round, so that other load affects all of them. `--thumbnails 0 --thumbnails 500 --images 100000`
compares a large job with and without thumbnails; its images have all classes in turn.

    Celery      takes and acknowledges messages, sends events, runs the tasks' threads
    claim       from the message to the chunk's images, in SQL
    hand out    images to the loaders, in the task's thread
    take in     the loaders' answers, in their reader
    batch       assembles batches and handles their answers, in the batcher
    gather      copies pixels into the classifier's memory: the model's input
    store       rows into SQL, and the metrics
    thumbnails  chooses images, makes their JPEGs and stores them
    the rest    other threads: heartbeat, supervision of the loaders
    all         the whole process
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from benchmarks.rig.child import Child
from benchmarks.rig.figures import spread
from benchmarks.rig.installation import RANDOM_WEIGHTS, Installation, installed
from benchmarks.rig.instant_worker import PARTS
from benchmarks.rig.machine import machine
from contract.broker.connection import make_celery
from contract.chunks.state import ChunkState
from contract.database.engine import reading
from contract.database.tables import chunks, jobs, results
from contract.settings import Settings
from producer.dispatcher import publish
from producer.submit.submission import submit

CHUNK_IMAGES: Final = (64, 256)
DATABASES: Final = ("sqlite", "postgresql")
DEFAULT_THUMBNAILS: Final = Settings.model_fields["thumbnails"].default
HOSTS: Final = 64
"""Hosts of the images, in turn, because a crawl has many hosts."""
WANTED: Final = RANDOM_WEIGHTS | {"RESNEXT_LOADERS": "2"}
ALL: Final = "all"
POLL_S: Final = 0.05
WITHIN_S: Final = 300.0


class Bench:
    """A worker on one database, and what is needed to give it work."""

    def __init__(self, installation: Installation, worker: Child) -> None:
        self._installation = installation
        self._engine = installation.engine
        self._worker = worker
        self._app = make_celery(
            Settings(broker_url=installation.environment["RESNEXT_BROKER_URL"], **self._model())
        )

    def measure(self, images: int, chunk_images: int) -> dict[str, float]:
        """Measures µs per image, by part."""
        settings = Settings(chunk_images=chunk_images, **self._model())
        uris = (
            (f"https://images-{n % HOSTS}.example.com/some/path/to/a/picture-{n}.jpg", None)
            for n in range(images)
        )
        job = submit(self._engine, uris, settings=settings)
        before = self._cpu_s()
        number = self._publish(job, images)
        self._await_end(number)
        after = self._cpu_s()
        self._check(number, images)
        return {part: 1e6 * (after[part] - before[part]) / images for part in (*PARTS, ALL)}

    def _model(self) -> dict[str, Any]:
        return {"weights": RANDOM_WEIGHTS["RESNEXT_WEIGHTS"]}

    def _cpu_s(self) -> dict[str, float]:
        parts: dict[str, float] = dict.fromkeys(PARTS, 0.0) | self._worker.ask()["cpu_s"]
        return parts | {ALL: sum(parts.values())}

    def _publish(self, job: str, images: int) -> int:
        """Publishes all of it at once; returns the job's number."""
        with self._engine.begin() as connection:
            number: int = connection.execute(
                select(jobs.c.number).where(jobs.c.id == job)
            ).scalar_one()
            publications = publish._queue_due(connection, number, images)
        publish.push(self._app, publications)
        return number

    def _await_end(self, number: int) -> None:
        left = select(func.count()).where(
            chunks.c.job_number == number, chunks.c.state != ChunkState.DONE
        )
        deadline = time.monotonic() + WITHIN_S
        while True:
            with reading(self._engine) as connection:
                if not connection.scalar(left):
                    return
            if self._worker.has_ended or time.monotonic() > deadline:
                raise RuntimeError(f"the job has not ended; see {self._worker.log}")
            time.sleep(POLL_S)

    def _check(self, number: int, images: int) -> None:
        classified = select(func.count(results.c.class_1)).where(results.c.job_number == number)
        with reading(self._engine) as connection:
            assert connection.scalar(classified) == images


@contextmanager
def bench(folder: Path, database: str, batch_images: int, thumbnails: int) -> Iterator[Bench]:
    wanted = WANTED | {"RESNEXT_THUMBNAILS": str(thumbnails)}
    with installed(folder, wanted, database=database) as installation:
        log, environment = installation.log("worker"), installation.environment
        program = "benchmarks.rig.instant_worker"
        with Child(program, str(batch_images), log=log, environment=environment) as worker:
            installation.await_ready("worker", lambda: worker.has_ended)
            yield Bench(installation, worker)


Benches = dict[tuple[str, int], Bench]
"""By database and thumbnails per job."""
Figures = dict[tuple[str, int, int], list[dict[str, float]]]
"""By database, thumbnails per job and images per chunk."""


def measure(benches: Benches, rounds: int, images: int, sizes: Sequence[int]) -> Figures:
    figures: Figures = {(*which, size): [] for which in benches for size in sizes}
    for n in range(rounds + 1):
        for (database, thumbnails, size), rows in figures.items():
            row = benches[database, thumbnails].measure(images, size)
            if n:  # the first round makes connections and compiles statements
                rows.append(row)
    return figures


def report(figures: Figures) -> None:
    columns = [
        f"{name}, {thumbnails} thumbnails, chunks of {size}" for name, thumbnails, size in figures
    ]
    table = Table("µs per image", *columns)
    for part in (*PARTS, ALL):
        cells = []
        for rows in figures.values():
            values = [row[part] for row in rows]
            cells.append(f"{statistics.median(values):.1f} ({spread(values)})")
        table.add_row(part, *cells)
    print(machine())
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16_384, help="images per round")
    parser.add_argument("--batch", type=int, default=256, help="images per batch; default: 256")
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: both")
    parser.add_argument(
        "--thumbnails",
        type=int,
        action="append",
        help="per job; repeat it to compare; default: 500",
    )
    parser.add_argument(
        "--chunk", type=int, action="append", help="images per chunk; default: 64 and 256"
    )
    chosen = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
        benches = {
            (name, thumbnails): stack.enter_context(
                bench(folder / f"{name}-{thumbnails}", name, chosen.batch, thumbnails)
            )
            for name in chosen.database or DATABASES
            for thumbnails in chosen.thumbnails or (DEFAULT_THUMBNAILS,)
        }
        sizes = chosen.chunk or CHUNK_IMAGES
        report(measure(benches, chosen.rounds, chosen.images, sizes))


if __name__ == "__main__":
    main()
