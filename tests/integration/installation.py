"""An installation whose workers are real processes with doubles for loaders and classifier."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from pydantic import SecretStr
from sqlalchemy import Engine, insert, select, true, update

from contract import remaining
from contract.broker.connection import make_celery, redis_of
from contract.broker.message import MESSAGE_VERSION, TASK_NAME, ChunkMessage
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, chunks, jobs, results, tallies, workers
from contract.settings import Settings
from producer.dispatcher.loop import Dispatcher
from tests.integration.dispatching import until

PROGRAM = "tests.doubles.worker"


@dataclass
class Installation:
    """A database, a broker, and the workers that a test starts and stops."""

    folder: Path
    settings: Settings
    engine: Engine
    app: Celery
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    @property
    def queue(self) -> str:
        return str(self.app.conf.task_default_queue)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker, and return once it takes messages."""
        path = self.folder / f"worker-{len(self.processes)}.log"
        process = self.begin(path, *arguments, **variables)
        until(lambda: " ready: " in path.read_text() or process.poll() is not None, path.read_text)
        assert process.poll() is None, path.read_text()
        return process

    def begin(self, path: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker, and return at once."""
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, *arguments],
                env=self.environment | {f"RESNEXT_{k}": v for k, v in variables.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def submit(self, *chunks_of_uris: list[str]) -> None:
        """Insert a job. Chunk n starts at position 100 * n."""
        with self.engine.begin() as connection:
            job = connection.execute(
                insert(jobs)
                .values(
                    id="job", owner="me", priority=0, state="running", model="resnext101_32x4d",
                    weights="nvidia", precision="amp", queue=self.queue, created_at=db_now(),
                    total=sum(map(len, chunks_of_uris)), classified=0, failed=0, errors={},
                    images_per_s=0.0,
                )
                .returning(jobs.c.number)
            ).scalar_one()  # fmt: skip
            for number, uris in enumerate(chunks_of_uris):
                connection.execute(
                    insert(chunks).values(
                        job_number=job, chunk=number, first_position=100 * number,
                        images=len(uris), shuffle=1, state="pending", generation=0, attempt=0,
                        deaths=0, due_at=db_now(), remaining=remaining.all_of(len(uris)),
                        remaining_images=len(uris),
                    )
                )  # fmt: skip
                row = {"job_number": job, "chunk": number, "uris": uris}
                connection.execute(insert(chunk_uris).values(row))

    def use_broker(self, url: str) -> None:
        """Use this broker instead of the one that all tests share."""
        self.settings = self.settings.model_copy(update={"broker_url": SecretStr(url)})
        self.environment = self.environment | {"RESNEXT_BROKER_URL": url}
        self.app.close()
        self.app = make_celery(self.settings)

    def publish(
        self, *wanted: int, version: int = MESSAGE_VERSION, **added: str
    ) -> list[ChunkMessage]:
        """Publish the wanted pending chunks, or all of them, as the dispatcher does.

        `version` and `added` make messages as a newer program would send them.
        """
        of_wanted = chunks.c.chunk.in_(wanted) if wanted else true()
        with self.engine.begin() as connection:
            rows = connection.execute(
                update(chunks)
                .where(chunks.c.state == "pending", of_wanted)
                .values(
                    state="queued",
                    generation=chunks.c.generation + 1,
                    published_at=db_now(),
                )
                .returning(chunks)
            ).all()
            uris = {
                row.chunk: connection.scalar(
                    select(chunk_uris.c.uris).where(chunk_uris.c.chunk == row.chunk)
                )
                for row in rows
            }
        messages = []
        for row in rows:
            offsets = remaining.decode(row.remaining)
            messages.append(
                ChunkMessage(
                    job="job",
                    job_number=row.job_number,
                    chunk=row.chunk,
                    generation=row.generation,
                    positions=tuple(row.first_position + offset for offset in offsets),
                    uris=tuple(uris[row.chunk][offset] for offset in offsets),
                    version=version,
                )
            )
        for message in messages:
            self.send(message.encode() | added, str(message))
        return messages

    def send(self, fields: dict[str, Any], shown: str = "?") -> None:
        self.app.send_task(
            TASK_NAME, kwargs=fields, queue=self.queue, argsrepr="", kwargsrepr=shown
        )

    def states(self) -> dict[int, str]:
        with reading(self.engine) as connection:
            rows = connection.execute(select(chunks.c.chunk, chunks.c.state)).all()
        return {row.chunk: row.state for row in rows}

    def left(self) -> set[int]:
        """The positions of unfinished images."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(chunks.c.first_position, chunks.c.remaining)).all()
        return {
            row.first_position + offset
            for row in rows
            for offset in remaining.decode(row.remaining)
        }

    def rows(self) -> dict[int, Any]:
        with reading(self.engine) as connection:
            return {row.position: row for row in connection.execute(select(results))}

    def tallied(self) -> int:
        with reading(self.engine) as connection:
            return sum(
                row.classified + row.failed for row in connection.execute(select(tallies)).all()
            )

    def workers(self) -> list[str]:
        with reading(self.engine) as connection:
            return list(connection.scalars(select(workers.c.name)))

    def waiting_messages(self) -> int:
        return int(redis_of(self.app).llen(self.queue))

    def unacknowledged(self) -> int:
        return int(redis_of(self.app).hlen("unacked"))

    def await_states(self, *states: str) -> None:
        until(
            lambda: self.states() == dict(enumerate(states)), lambda: f"{self.states()}\n{self.log}"
        )

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def dispatching(installation: Installation) -> Iterator[None]:
    """Run a dispatcher in a thread for the length of the block."""
    settings = installation.settings.model_copy(update={"dispatch_interval_s": 0.1})
    dispatcher = Dispatcher(installation.engine, installation.app, settings)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
