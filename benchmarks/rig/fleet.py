"""A fleet of stub workers in an installation, and what a job costs there, part by part.

Everything is real but for the network and the device: netless_worker.py says which parts are not.
`Fleet.run` submits jobs, looks twice while they run, and gives what has happened in between: images
and chunks, CPU of each part, bytes. benchmarks/system/fleet.py runs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import func, select, text

from benchmarks.rig.child import Child
from benchmarks.rig.installation import RANDOM_WEIGHTS, RESNEXTQ, Installation
from benchmarks.rig.processes import TICKS_A_S, cpu_s
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunks, jobs, results
from contract.flow import FIRST_CHUNK_IMAGES
from contract.settings import Settings
from producer.submit.submission import submit

HOSTS: Final = 64
"""Of the images, in turn."""
LOOK_S: Final = 0.25
WITHIN_S: Final = 600.0
# The first look: the rates are known by then, and the window has its size.
FIRST_AFTER_S: Final = 6.0
FIRST_PART: Final = 0.2
# Of a short job, whatever the time is.
HALF: Final = 0.5
# The last one: no worker waits for the end of the job yet.
LAST_PART: Final = 0.85
PARTS: Final = ("workers", "dispatcher", "database", "dispatching", "broker")
"""`dispatching` is what the database does for the dispatcher, `database` what it does besides."""
OUR_NAME: Final = "PGAPPNAME"
"""What libpq calls a connection: so the server's processes can be told apart."""
DISPATCHER: Final = "dispatcher"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run."""

    workers: int
    images: int
    images_s: float = 0.0
    """Of each device; 0: it takes no time."""
    chunk: int | None = None
    """Images; None: chunks grow."""
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class Look:
    """Counters at a moment."""

    at: datetime
    """By the database's clock."""
    monotonic_s: float
    cpu_s: dict[str, float]
    """By part, of all its processes."""
    machine_s: float
    """CPU of everything on this machine."""
    redis_in: int
    redis_out: int
    """Bytes."""
    wal: int
    """Bytes; 0 on SQLite."""


class Fleet:
    """Owns its workers; the installation is the caller's, and a dispatcher runs there."""

    def __init__(self, installation: Installation, dispatcher: int, loading_s: float) -> None:
        self.installation = installation
        self.engine = installation.engine
        self.workers: list[Child] = []
        self._dispatcher = dispatcher
        self._loading_s = loading_s
        self._started = 0
        self._images_s = 0.0

    def fit(self, case: Case) -> None:
        """Starts the workers of a case, or stops the last ones; returns once they take chunks.

        Devices of another rate come with new workers: a worker that was faster before would take
        too many chunks for a while.
        """
        if case.images_s != self._images_s:
            self._resize(0)
        self._images_s = case.images_s
        self._resize(case.workers)

    def _resize(self, workers: int) -> None:
        while len(self.workers) > workers:
            self.workers.pop().close()
        more = [self._start() for _ in range(workers - len(self.workers))]
        for name, worker in more:
            self.installation.await_ready(name, lambda worker=worker: worker.has_ended)
            self.workers.append(worker)

    def _start(self) -> tuple[str, Child]:
        name = f"worker-{self._started}"
        self._started += 1
        worker = Child(
            "benchmarks.rig.netless_worker",
            str(self._images_s),
            str(self._loading_s),
            log=self.installation.log(name),
            environment=self.installation.environment,
        )
        return name, worker

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def run(self, case: Case) -> dict[str, Any]:
        """What the case does a second and costs an image, in one row."""
        self.fit(case)
        ids = [self._submit(case, n) for n in range(case.jobs)]
        began = time.monotonic()
        first = last = None
        connections = redis_bytes = 0
        while (part := self._done(ids) / case.images) < 1:
            settled = time.monotonic() - began > FIRST_AFTER_S or part >= HALF
            if first is None and part >= FIRST_PART and settled:
                first = self.look()
            elif first is not None and last is None and part >= LAST_PART:
                last = self.look()
                connections, redis_bytes = self._connections(), self._redis()["used_memory"]
            self._check(began)
            time.sleep(LOOK_S)
        if first is None:
            raise RuntimeError(f"{case} is over too soon: it needs more images")
        last = last or self.look()
        row = self._row(case, ids, first, last)
        return row | {"connections": connections, "redis_bytes": redis_bytes}

    def complete(self, case: Case) -> None:
        """The same without a look, so that connections and statements are there."""
        self.fit(case)
        ids = [self._submit(case, n) for n in range(case.jobs)]
        began = time.monotonic()
        while self._done(ids) < case.images:
            self._check(began)
            time.sleep(LOOK_S)

    def look(self) -> Look:
        installation = self.installation
        assert installation.broker is not None
        broker = installation.broker.pid
        dispatching = cpu_s(self._dispatching())
        spent = {
            "workers": cpu_s([worker.pid for worker in self.workers]),
            "dispatcher": cpu_s([self._dispatcher]),
            "database": cpu_s(installation._servers) - dispatching,
            "dispatching": dispatching,
            "broker": cpu_s([] if broker is None else [broker]),
        }
        redis = self._redis()
        return Look(
            at=self._ask(select(db_now())),
            monotonic_s=time.monotonic(),
            cpu_s=spent,
            machine_s=machine_cpu_s(),
            redis_in=redis["total_net_input_bytes"],
            redis_out=redis["total_net_output_bytes"],
            wal=self._wal(),
        )

    def _row(self, case: Case, ids: Sequence[str], first: Look, last: Look) -> dict[str, Any]:
        seconds = (last.at - first.at).total_seconds()
        images_s, chunk_images = self._pace(case, ids, first.at, last.at)
        images = images_s * seconds
        wall_s = last.monotonic_s - first.monotonic_s
        cpu = {part: last.cpu_s[part] - first.cpu_s[part] for part in PARTS}
        machine = last.machine_s - first.machine_s
        return {
            "workers": case.workers, "device_images_s": case.images_s, "chunk": case.chunk,
            "jobs": case.jobs, "images": images, "seconds": seconds,
            "chunk_images": chunk_images,
            "images_s": images_s, "chunks_s": images_s / chunk_images,
            "cpu_s": {part: spent * seconds / wall_s for part, spent in cpu.items()},
            "other_cores": (machine - sum(cpu.values())) / wall_s,
            "wal_bytes": (last.wal - first.wal) / images,
            "redis_in_bytes": (last.redis_in - first.redis_in) / images,
            "redis_out_bytes": (last.redis_out - first.redis_out) / images,
        }  # fmt: skip

    def _pace(
        self, case: Case, ids: Sequence[str], first: datetime, last: datetime
    ) -> tuple[float, float]:
        """Images/s by the line that fits best to what was stored between the two moments (chunks
        come in bursts, so the two ends alone would say little), and images a chunk of these jobs.
        """
        piece = results.c.position // (case.chunk or FIRST_CHUNK_IMAGES)
        of_jobs = jobs.c.id.in_(ids)
        pieces = (
            select(func.max(results.c.settled_at).label("at"), func.count())
            .join_from(results, jobs, results.c.job_number == jobs.c.number)
            .where(of_jobs)
            .group_by(results.c.job_number, piece)
            .order_by("at")
        )
        counted = select(func.count()).join_from(chunks, jobs, chunks.c.job_number == jobs.c.number)
        with reading(self.engine) as connection:
            stored = [row for row in connection.execute(pieces) if first <= row[0] <= last]
            number = connection.scalar(counted.where(of_jobs)) or 0
        seconds = [(at - first).total_seconds() for at, _ in stored]
        images = np.cumsum([count for _, count in stored])
        slope, _ = np.polyfit(seconds, images, 1)
        return float(slope), case.images / number

    def _submit(self, case: Case, number: int) -> str:
        of_job = case.images // case.jobs + (number < case.images % case.jobs)
        settings = Settings(weights=RANDOM_WEIGHTS["RESNEXT_WEIGHTS"], chunk_images=case.chunk)
        uris = (
            (f"https://images-{n % HOSTS}.example.com/some/path/to/a/picture-{n}.jpg", None)
            for n in range(of_job)
        )
        return submit(self.engine, uris, settings=settings)

    def _done(self, ids: Sequence[str]) -> int:
        done = select(func.sum(jobs.c.classified + jobs.c.failed)).where(jobs.c.id.in_(ids))
        return int(self._ask(done) or 0)

    def _check(self, began: float) -> None:
        ended = [worker.log for worker in self.workers if worker.has_ended]
        if ended or time.monotonic() - began > WITHIN_S:
            raise RuntimeError(f"the jobs do not end; see {ended or self.installation.folder}")

    def _ask(self, statement: Any) -> Any:
        with reading(self.engine) as connection:
            return connection.scalar(statement)

    @property
    def _on_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def _wal(self) -> int:
        if not self._on_postgresql:
            return 0
        return int(self._ask(text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")))

    def _connections(self) -> int:
        """Those of clients, but for the one that asks."""
        if not self._on_postgresql:
            return 0
        clients = "backend_type = 'client backend' AND pid != pg_backend_pid()"
        return int(self._ask(text(f"SELECT count(*) FROM pg_stat_activity WHERE {clients}")))

    def _dispatching(self) -> list[int]:
        """The processes that serve the dispatcher; on SQLite there are none."""
        if not self._on_postgresql:
            return []
        statement = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
        with reading(self.engine) as connection:
            return list(connection.scalars(statement, {"name": DISPATCHER}))

    def _redis(self) -> dict[str, int]:
        assert self.installation.broker is not None
        with self.installation.broker.client() as client:
            info: dict[str, int] = client.info()
        return info

    def sizes(self) -> dict[str, float]:
        """Bytes an image that has its result; call it when all jobs are complete."""
        rows = self._ask(select(func.count()).select_from(results))
        if not self._on_postgresql:
            database = Path(self.engine.url.database or "")
            return {"rows": rows, "file": database.stat().st_size / rows}
        shown = {
            "table": "pg_relation_size('results')",
            "indexes": "pg_indexes_size('results')",
            "results": "pg_total_relation_size('results')",
            "chunks": "pg_total_relation_size('chunks') + pg_total_relation_size('chunk_uris')",
            "database": "pg_database_size(current_database())",
        }
        sizes = {name: self._ask(text(f"SELECT {size}")) / rows for name, size in shown.items()}
        return {"rows": rows} | sizes


@contextmanager
def fleet_in(installation: Installation, loading_s: float = 0.0) -> Iterator[Fleet]:
    """With its dispatcher, and no worker yet."""
    dispatcher = installation.start_program(
        [str(RESNEXTQ), "dispatch"],
        log=installation.log("dispatch"),
        environment={OUR_NAME: DISPATCHER},
    )
    installation.await_ready("dispatch")
    fleet = Fleet(installation, dispatcher.pid, loading_s)
    try:
        yield fleet
    finally:
        fleet.close()


def machine_cpu_s() -> float:
    """Of all cores, in user and system mode; see proc(5)."""
    user, nice, system, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    interrupts = sum(rest[2:4])
    return (user + nice + system + interrupts) / TICKS_A_S


def cores() -> int:
    return len(os.sched_getaffinity(0))
