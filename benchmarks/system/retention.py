"""Measures deleting jobs: alone, and while another job's results are stored.

    python -m benchmarks.system.retention [--rows N] [--beside N] [--databases sqlite postgresql]

The commands submit, cancel and purge a CSV list of N lines. Then a job with results (`--beside`) is
purged while another process stores results of another job. That process's rate and its longest
transaction are compared with those before and after the purge. It stores as fast as it can on
PostgreSQL, and `--images-s` on SQLite, where a process that never pauses would lock out all others.
CPU time and memory are those of the command's process, without the database server's.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, func, insert, select, text, update

from benchmarks.rig.child import Child
from benchmarks.rig.figures import shown, tell
from benchmarks.rig.installation import RESNEXTQ, postgresql_server
from benchmarks.rig.machine import machine
from benchmarks.system.sql import fill
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, results
from migrations.upgrade import upgrade
from producer.jobs.job import find_job

ROWS: Final = 10_000_000
BESIDE: Final = 1_000_000
# Like the worker in `benchmarks.system.at_size`.
IMAGES_S: Final = 2_000.0
LINES_A_WRITE: Final = 10_000
# How long the storing process is measured without a purge, before it and after it.
WITHOUT_S: Final = 15.0
WRITER_PAUSE_S: Final = 0.02
LOOK_PAUSE_S: Final = 0.01
_LONGEST_LOCK_WAIT: Final = text(
    "SELECT extract(epoch FROM max(clock_timestamp() - waitstart)) FROM pg_locks WHERE NOT granted"
)
LONGEST: Final = re.compile(r"at most ([\d,]+) ms per transaction")
RATE_MARK, WAIT_MARK_MS = 0.9, 100.0


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    seconds: float
    cpu_s: float
    peak_mb: float
    said: str
    """What it printed on both outputs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="lines of the list")
    parser.add_argument("--beside", type=int, default=BESIDE, help="results beside another job")
    parser.add_argument(
        "--images-s", type=float, default=IMAGES_S, help="images/s stored beside it, on SQLite"
    )
    parser.add_argument("--databases", nargs="+", default=["postgresql", "sqlite"])
    chosen = parser.parse_args()
    title = f"{chosen.rows:,} lines; {chosen.beside:,} results beside another job"
    table = Table("database", "", "figure", "mark", title=title)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
        listed = write_list(folder / "list.csv", chosen.rows)
        for name in chosen.databases:
            images_s = chosen.images_s if name == "sqlite" else 0.0
            with database(name, folder / f"{name}-alone") as url:
                add(table, name, alone(url, listed, chosen.rows))
            with database(name, folder / f"{name}-beside") as url:
                add(table, name, beside(url, chosen.beside, images_s))
    print(machine())
    Console(width=120).print(table)


def add(table: Table, name: str, lines: Iterator[tuple[str, str, str]]) -> None:
    for cells in lines:
        tell(f"{name}: {': '.join(filter(None, cells))}")
        table.add_row(name, *cells)


def write_list(path: Path, rows: int) -> Path:
    with path.open("w") as lines:
        lines.write("id,url\n")
        for first in range(0, rows, LINES_A_WRITE):
            lines.writelines(
                f"{n},https://images.site-{n // LINES_A_WRITE:06d}.example/{n:032x}.jpg\n"
                for n in range(first, min(first + LINES_A_WRITE, rows))
            )
    tell(f"{rows:,} lines are written, {path.stat().st_size / 1e6:.0f} MB")
    return path


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """Makes a new database with the newest schema; gives its URL."""
    if name == "sqlite":
        folder.mkdir()
        url = f"sqlite:///{folder / 'resnext.db'}"
        prepare(url)
        yield url
        return
    with postgresql_server(folder) as (server, _):
        url = server.replace("postgresql:", "postgresql+psycopg:")
        prepare(url)
        yield url


def prepare(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()


def run(url: str, *arguments: str) -> Ran:
    """Runs a command as a user would type it.

    Raises:
        RuntimeError: the command failed.
    """
    environment = os.environ | {"RESNEXT_DATABASE_URL": url}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [RESNEXTQ, *arguments], env=environment, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise RuntimeError(f"resnextq {' '.join(arguments)}: {said}")
    tell(f"{arguments[0]} took {seconds:.1f} s")
    return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said)


def alone(url: str, listed: Path, rows: int) -> Iterator[tuple[str, str, str]]:
    """Measures submit, cancel and purge."""
    engine = make_engine(url)
    empty = size_of(engine)
    submitted = run(url, "submit", str(listed), "--id-column", "id")
    job = submitted.said.split()[0]
    with reading(engine) as connection:
        total = find_job(connection, job).total
    if total != rows:
        raise RuntimeError(f"{total:,} images of {rows:,} lines")
    full = size_of(engine)
    yield from told("submit", submitted, rows, "lines")
    yield from told("cancel", run(url, "cancel", job), rows, "lines")
    with beats(engine) as waits_ms:
        purged = run(url, "purge", "--job", job, "--yes")
    yield from told("purge", purged, rows, "lines")
    yield "purge, longest transaction", f"{longest_ms(purged)} ms", ""
    yield "another writer's longest transaction meanwhile", *waited(max(waits_ms))
    vacuum(engine)
    sizes = " → ".join(f"{size / 1e6:,.0f}" for size in (empty, full, size_of(engine)))
    yield "file: empty → submitted → purged", f"{sizes} MB", ""
    engine.dispose()


def told(what: str, ran: Ran, rows: int, unit: str) -> Iterator[tuple[str, str, str]]:
    rate = f"{rows / ran.cpu_s:,.0f} {unit}/s of CPU"
    yield what, f"{ran.seconds:.1f} s, {ran.cpu_s:.1f} s of CPU ({rate})", ""
    yield f"{what}, peak memory", f"{ran.peak_mb:.0f} MB", ""


def longest_ms(purged: Ran) -> str:
    found = LONGEST.findall(purged.said)
    return str(found[-1])


def waited(most_ms: float) -> tuple[str, str]:
    verdict = "met" if most_ms < WAIT_MARK_MS else "MISSED"
    return f"{shown(most_ms)} ms", f"< {WAIT_MARK_MS:.0f} ms: {verdict}"


def size_of(engine: Engine) -> int:
    """The database's size on disk."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(str(engine.url.database)).stat().st_size
    with reading(engine) as connection:
        statement = text("SELECT pg_database_size(current_database())")
        return int(connection.execute(statement).scalar_one())


def vacuum(engine: Engine) -> None:
    """Does what PostgreSQL's autovacuum would do within a minute."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM"))


@contextmanager
def repeating(work: Callable[[], None], pause_s: float) -> Iterator[None]:
    """Calls `work` again and again in a thread, with this pause before each call."""
    ended = threading.Event()

    def run_on() -> None:
        while not ended.wait(pause_s):
            work()

    thread = threading.Thread(target=run_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def beats(engine: Engine) -> Iterator[list[float]]:
    """Writes fifty times per second, and collects how long each transaction took, in ms."""
    waits_ms: list[float] = []

    def beat() -> None:
        began = time.monotonic()
        with engine.begin() as connection:
            connection.execute(update(jobs).where(jobs.c.number < 0).values(name=None))
        waits_ms.append(1000 * (time.monotonic() - began))

    with repeating(beat, WRITER_PAUSE_S):
        yield waits_ms


@contextmanager
def lock_waits(engine: Engine) -> Iterator[list[float]]:
    """Looks at PostgreSQL's waits for locks a hundred times per second, and collects how long those
    that were seen had lasted, in ms.
    """
    waits_ms: list[float] = []
    if engine.dialect.name != "postgresql":
        yield waits_ms
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def look() -> None:
            waits_ms.append(1000 * float(connection.scalar(_LONGEST_LOCK_WAIT) or 0))

        with repeating(look, LOOK_PAUSE_S):
            yield waits_ms


def beside(url: str, rows: int, images_s: float) -> Iterator[tuple[str, str, str]]:
    """Purges a job while another job's results are stored."""
    engine = make_engine(url)
    fill(engine, rows)
    other = insert_jobs(engine, rows)
    settle(engine)
    options = url, str(other), str(images_s)
    with Child("benchmarks.rig.storing_worker", *options, log=log_of(url)) as child:
        seen: list[dict[str, Any]] = []
        reader = threading.Thread(target=read_all, args=(child, seen), daemon=True)
        reader.start()
        time.sleep(WITHOUT_S)
        began = time.monotonic()
        with lock_waits(engine) as locked_ms:
            purged = run(url, "purge", "--state", "completed", "--yes")
        ended = time.monotonic()
        time.sleep(WITHOUT_S)
        looks = list(seen)
        os.kill(child.pid, 15)
    before, during, after = (
        [look for look in looks if start <= look["at"] < stop]
        for start, stop in ((0, began), (began, ended), (ended, ended + WITHOUT_S))
    )
    without = statistics.mean([rate_of(before), rate_of(after)])
    share = rate_of(during) / without
    yield from told("purge beside another job", purged, rows, "rows")
    yield "its longest transaction", f"{longest_ms(purged)} ms", ""
    rates = ", ".join(f"{rate_of(some):,.0f}" for some in (before, during, after))
    yield "the other's images/s: before, meanwhile, after", rates, ""
    verdict = "met" if share >= RATE_MARK else "MISSED"
    yield "its rate meanwhile", f"{share:.0%}", f"≥ {RATE_MARK:.0%}: {verdict}"
    most_ms = [max(look["longest_ms"] for look in some) for some in (before, during, after)]
    yield "its longest transaction before and after", f"{shown(max(most_ms[::2]))} ms", ""
    yield "its longest transaction meanwhile", *waited(most_ms[1])
    if locked_ms:
        yield "longest wait for a lock meanwhile, of any process", *waited(max(locked_ms))
    check(engine, other, looks[-1]["images"])
    engine.dispose()


def settle(engine: Engine) -> None:
    """Cleans up after `insert_jobs`, which leaves a dead version of each row. Otherwise PostgreSQL
    would do it later, while the other job is measured.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
            connection.execute(text("CHECKPOINT"))


def insert_jobs(engine: Engine, rows: int) -> int:
    """Gives all results to one job, which has ended, and adds a running job. Returns the number of
    the running job.
    """
    with engine.begin() as connection:
        connection.execute(update(results).values(job_number=1))
        of_first = {"total": rows, "classified": rows, "failed": 0, "state": "completed"}
        connection.execute(
            update(jobs).where(jobs.c.number == 1).values(finished_at=db_now(), **of_first)
        )
        connection.execute(update(jobs).where(jobs.c.number > 1).values(state="cancelled"))
        row = connection.execute(select(jobs).where(jobs.c.number == 1)).mappings().one()
        number = int(connection.scalar(select(func.max(jobs.c.number))) or 0) + 1
        again = {"number": number, "id": "0123456789abcdef", "state": "running", "total": 2**40}
        connection.execute(insert(jobs).values(**{**row, **again, "finished_at": None}))
    return number


def log_of(url: str) -> Path:
    return Path(tempfile.gettempdir()) / f"retention-{os.getpid()}-{url.partition(':')[0]}.log"


def read_all(child: Child, seen: list[dict[str, Any]]) -> None:
    try:
        while True:
            seen.append(child.read())
    except RuntimeError:  # the job has ended
        return


def rate_of(looks: Sequence[dict[str, Any]]) -> float:
    first, last = looks[0], looks[-1]
    return float((last["images"] - first["images"]) / (last["at"] - first["at"]))


def check(engine: Engine, other: int, least: int) -> None:
    """Checks that the other job lost nothing, and that nothing of the purged one is left."""
    counts = select(results.c.job_number, func.count()).group_by(results.c.job_number)
    with reading(engine) as connection:
        found = {row[0]: row[1] for row in connection.execute(counts)}
    if found.keys() != {other} or found[other] < least:
        raise RuntimeError(f"results by job: {found}; {least:,} of job {other} were stored")


if __name__ == "__main__":
    sys.exit(main())
