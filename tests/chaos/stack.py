"""A whole installation of real processes: servers, dispatchers, workers. All can be killed.

Workers use a classifier whose answers can be checked (`double`); everything else is real. `heal`
restarts dead processes, as a supervisor would.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from celery import Celery
from sqlalchemy import ColumnElement, Engine, func, select

from contract.broker.connection import make_celery, redis_of
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import chunks, leaders, workers
from contract.settings import Settings
from migrations.upgrade import upgrade
from producer.dispatcher.leader import ROLE
from tests.chaos.pictures import Pictures
from tests.chaos.postgres import Postgres
from tests.chaos.process import READY, ROOT, Process, program_of
from tests.chaos.proxy import Proxy
from tests.chaos.wait import seconds_until, until
from worker.embedded.valkey import Valkey

Database = Literal["sqlite", "postgresql"]

RESNEXTQ: Final = str(Path(sys.executable).with_name("resnextq"))
DISPATCH: Final = (RESNEXTQ, "dispatch")
WORK: Final = (sys.executable, "-m", "tests.chaos.double")
LOADER: Final = "worker.loader.program"
LEASE_S: Final = 5.0
DEFAULT_LEASE_S: Final = float(Settings.model_fields["lease_s"].default)
CHUNK_IMAGES: Final = 16
BATCH_S: Final = 0.1
FLEET: Final = 2


Run = tuple[int, int, int]
"""A job's number, a chunk's number, and the chunk's generation."""


@dataclass
class Stack:
    """The processes of an installation; `installed` makes it."""

    folder: Path
    settings: Settings
    valkey: Valkey
    proxy: Proxy | None
    postgres: Postgres | None
    engine: Engine
    app: Celery
    pictures: Pictures
    hold: Path
    """While this file exists, no batch ends."""
    data: Path
    """Where the database keeps its tables."""
    environment: dict[str, str]
    dispatchers: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)

    def add_dispatcher(self, command: Sequence[str] = DISPATCH, **variables: str) -> Process:
        name = f"dispatcher-{len(self.dispatchers)}"
        return self._start(self.dispatchers, name, command, variables)

    def remove_dispatcher(self, process: Process) -> None:
        self.dispatchers.remove(process)
        process.stop()

    def add_worker(self) -> Process:
        return self._start(self.workers, f"worker-{len(self.workers)}", WORK, {})

    def heal(self) -> None:
        """Restarts dead processes, and returns once they are ready.

        A worker that has crashed lives on for a moment while its supervisor reports the crash. That
        report may finish a job. Without the wait, the next row would find a worker that still runs
        but never works again.
        """
        until("crashed workers have ended", lambda: not any(map(_is_ending, self.workers)))
        for process in self.revive():
            process.await_ready()

    def revive(self) -> list[Process]:
        """Restarts dead processes, and returns them."""
        dead = [one for one in (*self.dispatchers, *self.workers) if not one.is_running]
        for process in dead:
            process.end()
            process.start()
        return dead

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside this context no batch ends."""
        self.hold.touch()
        try:
            yield
        finally:
            self.hold.unlink()

    def end(self) -> None:
        for process in (*self.workers, *self.dispatchers):
            process.end()
        self.workers.clear()
        self.dispatchers.clear()

    @property
    def queue(self) -> str:
        return str(self.app.conf.task_default_queue)

    def messages(self) -> int:
        """Counts messages that wait in Redis or are not acknowledged, even by dead workers."""
        redis = redis_of(self.app)
        return int(redis.llen(self.queue)) + int(redis.hlen("unacked"))

    def busy_worker(self) -> Process | None:
        """Returns a worker that runs a chunk."""
        alive = (worker for worker in self.workers if worker.is_running)
        return next((worker for worker in alive if self.runs_of(self.name_of(worker))), None)

    def leader(self) -> Process:
        """Returns the dispatcher that leads."""

        def find() -> Process | None:
            with reading(self.engine) as connection:
                names = connection.scalars(select(leaders.c.holder).filter_by(role=ROLE)).all()
            return next((one for one in self.dispatchers if _is_among(names, one)), None)

        found: Process = until("a dispatcher leads", find)
        return found

    def now(self) -> datetime:
        """Returns the database's time, once it answers."""

        def ask() -> datetime | None:
            with reading(self.engine) as connection:
                return connection.scalar(select(db_now()))

        now: datetime = until("the database answers", ask)
        return now

    def name_of(self, worker: Process) -> str:
        """Returns the worker's name in SQL."""

        def find() -> str | None:
            with reading(self.engine) as connection:
                return _is_among(connection.scalars(select(workers.c.name)), worker)

        return str(until(f"{worker.log.name} has a heartbeat", find))

    def queued(self) -> set[Run]:
        """Returns the runs that wait in Redis, according to SQL."""
        return self._runs(chunks.c.state == "queued")

    def runs_of(self, worker: str) -> set[Run]:
        """Returns the runs that this worker has, according to SQL."""
        return self._runs((chunks.c.state == "running") & (chunks.c.worker == worker))

    def seconds_until_progress(self, since: datetime) -> float:
        """Waits until a worker has taken a chunk that was published after this time."""
        taken = select(func.count()).where(
            chunks.c.published_at > since, chunks.c.state.in_(("running", "done"))
        )

        def goes_on() -> bool:
            with reading(self.engine) as connection:
                return bool(connection.scalar(taken))

        return seconds_until("a worker takes a chunk that was published since then", goes_on)

    def kill_loader(self, worker: Process) -> None:
        def find() -> int:
            return next((pid for pid in worker.pids() if LOADER in program_of(pid)), 0)

        os.kill(until("a loader runs", find), signal.SIGKILL)

    def _runs(self, of_which: ColumnElement[bool]) -> set[Run]:
        columns = (chunks.c.job_number, chunks.c.chunk, chunks.c.generation)
        with reading(self.engine) as connection:
            return {(*row,) for row in connection.execute(select(*columns).where(of_which))}

    def _start(
        self, among: list[Process], name: str, command: Sequence[str], variables: dict[str, str]
    ) -> Process:
        process = Process(
            command, log=self.folder / f"{name}.log", environment=self.environment | variables
        )
        among.append(process)
        process.start()
        return process


def _is_ending(worker: Process) -> bool:
    """Whether only the supervisor of this worker is left."""
    was_ready = worker.is_running and READY in worker.said()
    return was_ready and worker.pids() == [worker.pid] and worker.is_running


def _is_among(names: Iterable[str], process: Process) -> str | None:
    """Returns the name, `host-PID-random`, whose PID is this process or a descendant of it."""
    pids = {str(pid) for pid in process.pids()}
    return next((name for name in names if name.split("-")[-2] in pids), None)


@contextmanager
def installed(
    folder: Path,
    database: Database,
    *,
    lease_s: float = LEASE_S,
    proxied: bool = False,
    data: Path | None = None,
    batch_s: float = BATCH_S,
) -> Iterator[Stack]:
    """Starts a whole installation, and stops it at the end of the context.

    Args:
        folder: an empty folder for everything that the stack writes.
        database: which kind of database.
        lease_s: the workers' lease.
        proxied: whether Redis is behind a proxy that can be cut.
        data: where the database keeps its tables, if not in `folder`.
        batch_s: seconds that a batch takes.
    """
    with ExitStack() as ending:
        valkey = _start_valkey(folder, ending)
        proxy = _start_proxy(valkey, ending) if proxied else None
        postgres = _start_postgres(folder, data, ending) if database == "postgresql" else None
        url = postgres.url("images") if postgres else f"sqlite:///{(data or folder) / 'images.db'}"
        environment = _environment(folder, _broker_url(valkey, proxy), url, lease_s, batch_s)
        settings = _settings(environment)
        engine = make_engine(url)
        ending.callback(engine.dispose)
        upgrade(engine)
        app = make_celery(settings)
        ending.callback(app.close)
        stack = Stack(
            folder=folder,
            settings=settings,
            valkey=valkey,
            proxy=proxy,
            postgres=postgres,
            engine=engine,
            app=app,
            pictures=Pictures(folder / "pictures"),
            hold=folder / "hold",
            data=data or folder,
            environment=environment,
        )
        ending.callback(stack.end)
        started = [stack.add_dispatcher(), *(stack.add_worker() for _ in range(FLEET))]
        for process in started:
            process.await_ready()
        yield stack


def _start_valkey(folder: Path, ending: ExitStack) -> Valkey:
    valkey = Valkey(folder / "valkey")
    valkey.start()
    ending.callback(valkey.stop)
    return valkey


def _start_proxy(valkey: Valkey, ending: ExitStack) -> Proxy:
    assert valkey.socket_path is not None, "the folder's path is too long for a socket"
    proxy = Proxy(valkey.socket_path)
    proxy.start()
    ending.callback(proxy.end)
    return proxy


def _start_postgres(folder: Path, data: Path | None, ending: ExitStack) -> Postgres:
    postgres = Postgres(folder / "postgres")
    postgres.start()
    ending.callback(postgres.end)
    postgres.make_database("images", data)
    return postgres


def _broker_url(valkey: Valkey, proxy: Proxy | None) -> str:
    if proxy is None:
        return valkey.url
    password = (valkey.folder / "valkey.password").read_text()
    return f"redis://:{password}@127.0.0.1:{proxy.port}/0"


def _environment(
    folder: Path, broker_url: str, database_url: str, lease_s: float, batch_s: float
) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESNEXT_")}
    return kept | {
        "RESNEXT_HOME": str(folder / "home"),
        "RESNEXT_BROKER_URL": broker_url,
        "RESNEXT_DATABASE_URL": database_url,
        "RESNEXT_LEASE_S": f"{lease_s:g}",
        "RESNEXT_CHUNK_IMAGES": str(CHUNK_IMAGES),
        "RESNEXT_BATCH_IMAGES": str(CHUNK_IMAGES),
        "RESNEXT_MAX_BATCH_WAIT_MS": "20",
        "RESNEXT_LOADERS": "2",
        "RESNEXT_FETCHES_PER_LOADER": "32",
        "RESNEXT_CHUNKS_IN_FLIGHT": "8",
        "RESNEXT_RETRY_BACKOFF_S": "0.2",
        "RESNEXT_FILE_ROOTS": str(folder / "pictures"),
        "CHAOS_BATCH_S": f"{batch_s:g}",
        "CHAOS_HOLD": str(folder / "hold"),
        # Of this environment, loaders get only this variable.
        "PYTHONPATH": f"{ROOT / 'tests/chaos/sabotage'}{os.pathsep}{ROOT}",
    }


class _OwnSettings(Settings):
    """Settings only from a dictionary, not from this process's environment or a file."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, init_settings: Any, **__: Any) -> Any:
        return (init_settings,)


def _settings(environment: dict[str, str]) -> Settings:
    values = {
        name: environment[variable]
        for name in Settings.model_fields
        if (variable := f"RESNEXT_{name.upper()}") in environment
    }
    return _OwnSettings(**values)
