"""Runs `resnextq serve` as a separate process on one core, and measures its cost so far."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rig.processes import cpu_s
from contract.database.engine import make_engine
from producer.api.keys import create_key
from worker.loader.sandbox.prctl import PR_SET_PDEATHSIG, prctl

RESNEXTQ = Path(sys.executable).with_name("resnextq")
READY_WITHIN_S = 60.0
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Server:
    address: tuple[str, int]
    pid: int
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def connect(self) -> HTTPConnection:
        return HTTPConnection(*self.address, timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, **options: Any) -> HTTPResponse:
        """Sends a request; the answer's body is not read yet."""
        headers = self.headers | options.pop("headers", {})
        connection = self.connect()
        connection.request(method, path, headers=headers, **options)
        answer = connection.getresponse()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status}: {answer.read()[:500]!r}")
        return answer

    def cpu_s(self) -> float:
        return cpu_s([self.pid])

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def serving(url: str, folder: Path) -> Iterator[Server]:
    """Runs a server for the database at this SQLAlchemy URL on the last core; we use the others."""
    engine = make_engine(url)
    key = create_key(engine, f"bench-{time.time_ns()}", ["read", "submit"], "bench")
    engine.dispose()
    log = folder / "serve.log"
    environment = os.environ | {
        "RESNEXT_HOME": str(folder),
        "RESNEXT_DATABASE_URL": url.replace("+psycopg", ""),
        "RESNEXT_API_PORT": "0",
        "RESNEXT_API_REQUESTS_PER_S": "1000000",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [RESNEXTQ, "serve"],
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509
        )
    try:
        with on_a_core_of_its_own(process.pid):
            yield Server(_address(process, log), process.pid, key)
    finally:
        process.terminate()
        process.wait(READY_WITHIN_S)


@contextmanager
def on_a_core_of_its_own(pid: int) -> Iterator[None]:
    """Moves the process to the last core. Threads that it starts later inherit this. With only one
    core it does nothing.
    """
    cores = os.sched_getaffinity(0)
    *ours, last = sorted(cores)
    os.sched_setaffinity(pid, {last})
    if ours:
        os.sched_setaffinity(0, ours)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _address(process: subprocess.Popen[bytes], log: Path) -> tuple[str, int]:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        if (found := re.search(r"ready: (http://\S+)", log.read_text())) is not None:
            url = urlsplit(found[1])
            return url.hostname or "", url.port or 0
        time.sleep(0.05)
    raise RuntimeError(f"the server is not ready:\n{log.read_text()}")
