"""Measures the HTTP API on both databases: CPU time of its process, latency and memory.

    python -m benchmarks.system.api [--databases sqlite postgresql] [--rows N] [--minutes N]
                                    [--only polls out in listeners memory]

The server is `resnextq serve`, alone on one core; the clients use the others. CPU time is that of
its process, so with PostgreSQL it does not include the database's. A share of a core is the CPU
time per answer times the answers per second, so other load on the machine matters little.

`polls`: 200 requests per second, each for one of 1,000 running jobs, sent at fixed times even if
earlier ones are late. `out`: all results of one job, as streams. `in`: lists. `listeners`: 500
listeners of 20 jobs, each of which changes once per second. `memory`: all of these together, with
the process's memory after the warm-up and at the end.
"""

from __future__ import annotations

import argparse
import queue
import selectors
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, insert, text, update

from benchmarks.rig.api_server import Server, serving
from benchmarks.rig.figures import tell
from benchmarks.rig.machine import machine
from benchmarks.stage.sources import written
from benchmarks.system.export import database, make_rows
from contract.database.clock import db_now
from contract.database.engine import make_engine
from contract.database.tables import jobs, tallies
from migrations.upgrade import upgrade

POLLS_A_S: Final = 200
POLLED_JOBS: Final = 1_000
POLLERS: Final = 32
POLL_FOR_S: Final = 30.0
LISTENERS: Final = 500
WATCHED_JOBS: Final = 20
LISTEN_FOR_S: Final = 20.0
FIRST_NUMBER: Final = 100_000
STREAMS: Final = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
LISTS: Final = {"txt": "text/plain", "csv": "text/csv", "jsonl": "application/x-ndjson"}
MARKS: Final = {
    "polls, CPU": (50.0, "% of a core"),
    "polls, p99": (25.0, "ms"),
    "listeners, CPU": (10.0, "% of a core"),
    "memory, growth": (5.0, "%"),
}
LEAST: Final = {"out": 100_000, "in": 200_000}
# Share of the memory test that is warm-up: what a process needs at first does not count as growth.
WARM: Final = 0.3
READ_BYTES: Final = 2**20

Figure = tuple[str, str, str]
"""What, figure, mark."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--rows", type=int, default=200_000, help="rows to read, and to submit")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the memory test")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args()
    table = Table("database", "what", "figure", "mark", title="the HTTP API on one core")
    for dialect in chosen.databases:
        with tempfile.TemporaryDirectory() as folder, database(dialect, Path(folder)) as url:
            for figure in measure(url, Path(folder), chosen):
                tell(" · ".join((dialect, *figure)))
                table.add_row(dialect, *figure)
    print(machine())
    Console(width=100).print(table)


def measure(url: str, folder: Path, chosen: argparse.Namespace) -> Iterator[Figure]:
    engine = make_engine(url)
    upgrade(engine)
    make_rows(engine, chosen.rows)
    make_jobs(engine)
    with serving(url, folder) as server:
        for part in chosen.only:
            yield from PARTS[part](server, engine, folder, chosen)
    engine.dispose()


def make_jobs(engine: Engine) -> None:
    """Makes running jobs with two tallies each, as they are between two ticks of the dispatcher."""
    running = [
        {
            "number": FIRST_NUMBER + n, "id": f"{n:016x}", "owner": "bench", "priority": 0,
            "state": "running", "model": "m", "weights": "w", "precision": "amp",
            "queue": f"q{n % 5}", "created_at": db_now(), "total": 10**9, "classified": n,
            "failed": 5, "errors": {"http_404": 3, "timeout": 2}, "images_per_s": 100.0,
        }
        for n in range(POLLED_JOBS)
    ]  # fmt: skip
    added = [
        {
            "job_number": FIRST_NUMBER + n, "classified": 60, "failed": 4,
            "errors": {"http_404": 4},
        }
        for n in range(POLLED_JOBS)
        for _ in range(2)
    ]  # fmt: skip
    with engine.begin() as connection:
        for one in running:
            connection.execute(insert(jobs).values(one))
        connection.execute(insert(tallies), added)
        if engine.dialect.name == "postgresql":  # explicit numbers do not advance the sequence
            sequence = "pg_get_serial_sequence('jobs', 'number')"
            connection.execute(text(f"SELECT setval({sequence}, {2 * FIRST_NUMBER})"))


def against(what: str, figure: float) -> Figure:
    mark, unit = MARKS[what]
    verdict = "met" if figure <= mark else "MISSED"
    return what, f"{figure:.1f} {unit}", f"at most {mark:g}: {verdict}"


def rate(kind: str, form: str, number: int, cpu_s: float, noun: str) -> Figure:
    found, least = number / cpu_s, LEAST[kind]
    verdict = "met" if found >= least else "MISSED"
    return f"{kind}, {form}", f"{found:,.0f} {noun}/s per core", f"at least {least:,}: {verdict}"


def polls(server: Server, *_: Any) -> Iterator[Figure]:
    poll(server, 2.0)  # warm
    cpu_before = server.cpu_s()
    took = poll(server, POLL_FOR_S)
    yield against("polls, CPU", 100 * POLLS_A_S * (server.cpu_s() - cpu_before) / len(took))
    cuts = statistics.quantiles(took, n=100)
    yield "polls, p50", f"{1000 * cuts[49]:.1f} ms", ""
    yield against("polls, p99", 1000 * cuts[98])


def poll(server: Server, seconds: float) -> list[float]:
    """Seconds from the time when each poll was due to its answer."""
    due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    took: list[float] = []
    pollers = [threading.Thread(target=_poll, args=(server, due, took, n)) for n in range(POLLERS)]
    for poller in pollers:
        poller.start()
    began = time.monotonic()
    for n in range(int(seconds * POLLS_A_S)):
        at = began + n / POLLS_A_S
        time.sleep(max(0.0, at - time.monotonic()))
        due.put(at)
    for _ in pollers:
        due.put(None)
    for poller in pollers:
        poller.join()
    if len(took) < int(seconds * POLLS_A_S):
        raise RuntimeError(f"{len(took)} polls were answered")
    return took


def _poll(
    server: Server, due: queue.SimpleQueue[float | None], took: list[float], first: int
) -> None:
    with closing(server.connect()) as connection:
        job = first
        while (at := due.get()) is not None:
            job = (job + 7) % POLLED_JOBS
            connection.request("GET", f"/v1/jobs/{job:016x}", headers=server.headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                took.append(time.monotonic() - at)


def out(server: Server, _: Engine, __: Path, chosen: argparse.Namespace) -> Iterator[Figure]:
    for form in STREAMS:
        cpu_before = server.cpu_s()
        read = stream(server, form)
        if form == "jsonl" and read.count(b"\n") != chosen.rows:
            raise RuntimeError("rows are missing")
        yield rate("out", form, chosen.rows, server.cpu_s() - cpu_before, "rows")


def stream(server: Server, form: str) -> bytes:
    answer = server.ask("GET", "/v1/jobs/JOB/results", headers={"Accept": STREAMS[form]})
    parts = []
    while part := answer.read(READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def into(server: Server, _: Engine, folder: Path, chosen: argparse.Namespace) -> Iterator[Figure]:
    for form in LISTS:
        listed = written(folder / f"list.{form}", form, chosen.rows)
        cpu_before = server.cpu_s()
        send(server, listed, form)
        yield rate("in", form, chosen.rows, server.cpu_s() - cpu_before, "URIs")


def send(server: Server, listed: Path, form: str) -> None:
    headers = {"Content-Type": LISTS[form], "Content-Length": str(listed.stat().st_size)}
    with listed.open("rb") as body:
        server.ask("POST", "/v1/jobs", body=body, headers=headers).read()


def listeners(server: Server, engine: Engine, *_: Any) -> Iterator[Figure]:
    with selectors.DefaultSelector() as selector:
        for n in range(LISTENERS):
            answer = server.ask("GET", f"/v1/jobs/{n % WATCHED_JOBS:016x}/events")
            selector.register(answer.fp.raw._sock, selectors.EVENT_READ, answer)  # type: ignore[attr-defined]
        listen(selector, engine, 3.0)  # warm
        cpu_before = server.cpu_s()
        heard = listen(selector, engine, LISTEN_FOR_S)
        cpu_s = server.cpu_s() - cpu_before
        for key in list(selector.get_map().values()):
            key.data.close()
    yield "listeners, events", f"{heard / LISTEN_FOR_S:,.0f} a second", ""
    yield against("listeners, CPU", 100 * LISTENERS * cpu_s / max(1, heard))


def listen(selector: selectors.BaseSelector, engine: Engine, seconds: float) -> int:
    """Counts the events that arrive while the jobs change once per second."""
    end, next_change, heard = time.monotonic() + seconds, 0.0, 0
    watched = jobs.c.number.between(FIRST_NUMBER, FIRST_NUMBER + WATCHED_JOBS - 1)
    while (now := time.monotonic()) < end:
        if now >= next_change:
            with engine.begin() as connection:
                changed = {"classified": jobs.c.classified + 64}
                connection.execute(update(jobs).where(watched).values(changed))
            next_change = now + 1.0
        for key, _ in selector.select(min(end, next_change) - now):
            heard += key.fileobj.recv(READ_BYTES).count(b"\nevent: ")  # type: ignore[union-attr]
    return heard


def memory(server: Server, _: Engine, folder: Path, chosen: argparse.Namespace) -> Iterator[Figure]:
    listed = written(folder / "small.csv", "csv", 5_000)
    began, sizes = time.monotonic(), list[tuple[float, float]]()
    while (passed := time.monotonic() - began) < 60 * chosen.minutes:
        poll(server, 2.0)
        for form in STREAMS:
            stream(server, form)
        send(server, listed, "csv")
        listen_and_leave(server)
        sizes.append((passed, server.rss_mb()))
    warm = [size for at, size in sizes if at >= WARM * 60 * chosen.minutes]
    half = len(warm) // 2
    first, last = statistics.median(warm[:half]), statistics.median(warm[half:])
    yield "memory, warm", f"{first:.0f} MB, at most {max(size for _, size in sizes):.0f}", ""
    yield against("memory, growth", 100 * (last / first - 1))


def listen_and_leave(server: Server) -> None:
    for n in range(WATCHED_JOBS):
        answer = server.ask("GET", f"/v1/jobs/{n:016x}/events")
        answer.fp.readline()  # type: ignore[union-attr]
        answer.close()


PARTS: Final[dict[str, Callable[..., Iterator[Figure]]]] = {
    "polls": polls,
    "out": out,
    "in": into,
    "listeners": listeners,
    "memory": memory,
}

if __name__ == "__main__":
    main()
