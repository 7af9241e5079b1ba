"""Kills a worker in the middle of a job, on PostgreSQL directly and behind PgBouncer.

    python -m benchmarks.system.pgbouncer [--images N] [--rounds N]

Runs a whole installation: the real `submit`, the dispatcher and two workers with simulated network
and device (netless_worker.py). Once half of the images have their rows, one worker gets SIGKILL. It
uses the installed PgBouncer, in transaction mode with few connections. Prints images/s, including
the kill and the lease. The exit status is 1 if a row is missing, or if a log has an error or says
that a server does not answer.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from benchmarks.rig.child import Child
from benchmarks.rig.installation import Installation, installed
from contract.database.engine import reading
from contract.database.tables import results
from tests.servers.pgbouncer import MISSING, PROGRAM, pgbouncer

CONNECTIONS: Final = 5
LEASE_S: Final = 5
DEVICE_IMAGES_S: Final = 2000.0
LOOK_S: Final = 0.2
WAYS: Final = ("direct", "PgBouncer")
SETTINGS: Final = {"RESNEXT_WEIGHTS": "random", "RESNEXT_LEASE_S": str(LEASE_S)}
# A killed worker rightly causes a warning, which does not count.
TROUBLE: Final = re.compile("ERROR|Traceback|does not answer")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system.pgbouncer")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    if PROGRAM is None:
        print(MISSING)
        return 1
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    troubles: list[str] = []
    for _ in range(chosen.rounds):
        for way in WAYS:
            rates[way].append(run(way, chosen.images, troubles))
    for way, found in rates.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"{way:<10} {statistics.median(found):>7,.0f} images/s  ({spread})")
    print("\n".join(troubles) or "no row is missing, and no log has an error")
    return int(bool(troubles))


def run(way: str, images: int, troubles: list[str]) -> float:
    """Images per second of one job; adds what went wrong to `troubles`."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        installation = stack.enter_context(installed(Path(scratch) / "installation", SETTINGS))
        if way != "direct":
            direct = installation.environment["RESNEXT_DATABASE_URL"]
            pooled = stack.enter_context(pgbouncer(direct, connections=CONNECTIONS))
            installation.environment["RESNEXT_DATABASE_URL"] = pooled
        installation.start("dispatch")
        installation.await_ready("dispatch")
        victim = stack.enter_context(worker(installation, "worker-1"))
        stack.enter_context(worker(installation, "worker-2"))
        began = time.monotonic()
        uris = [f"https://images.example/{n}.jpg" for n in range(images)]
        job = installation.submit(uris)
        await_rows(installation, job, images // 2)
        os.kill(victim.pid, signal.SIGKILL)
        await_rows(installation, job, images)
        seconds = time.monotonic() - began
        rows = rows_of(installation)
        troubles.extend([f"{way}: {rows} rows of {images} images"] if rows != images else [])
        troubles.extend(troubles_of(installation, way))
    return images / seconds


@contextmanager
def worker(installation: Installation, name: str) -> Iterator[Child]:
    log, rate = installation.log(name), str(DEVICE_IMAGES_S)
    with Child(
        "benchmarks.rig.netless_worker", rate, log=log, environment=installation.environment
    ) as child:
        installation.await_ready(name, lambda: child.has_ended)
        yield child


def await_rows(installation: Installation, job: str, images: int) -> None:
    while (found := installation.job(job)).total - found.pending < images:
        time.sleep(LOOK_S)


def rows_of(installation: Installation) -> int:
    with reading(installation.engine) as connection:
        return connection.scalar(select(func.count()).select_from(results)) or 0


def troubles_of(installation: Installation, way: str) -> Iterator[str]:
    for log in sorted(installation.folder.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if TROUBLE.search(line):
                yield f"{way}, {log.name}: {line}"


if __name__ == "__main__":
    sys.exit(main())
