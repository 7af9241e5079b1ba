"""What looks at a fleet while it works: Prometheus, a browser at Flower, a program at the API.

`watching` starts `resnextq flower` and `resnextq serve` and asks everything again and again, over
HTTP, until the end: the metrics of each worker, of the dispatcher and of the API, Flower's list of
tasks and of workers, and the job's status. It counts the answers.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.request import Request, urlopen

from benchmarks.rig.fleet import Fleet
from benchmarks.rig.installation import Installation
from producer.api.keys import create_key

EVERY_S: Final = 1.0
"""Fifteen times as often as Prometheus does by default."""
FLOWER_EVERY_S: Final = 5.0
TIMEOUT_S: Final = 30.0
LOGIN: Final = "bench:bench-password"
SETTINGS: Final = {
    "RESNEXT_METRICS_PORT": "0",
    "RESNEXT_FLOWER_PORT": "0",
    "RESNEXT_FLOWER_LOGIN": LOGIN,
    "RESNEXT_API_PORT": "0",
}


class Watch:
    """Threads that ask, each in its own rhythm."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, every_s: float, ask: Callable[[], object]) -> None:
        def asking() -> None:
            while not self._ended.wait(every_s):
                try:
                    ask()
                    self.answers[name] += 1
                except OSError as error:
                    self.errors[f"{name}: {error}"] += 1

        self._threads.append(threading.Thread(target=asking, daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def watching(fleet: Fleet) -> Iterator[Watch]:
    """Of a fleet whose settings are `SETTINGS`."""
    installation = fleet.installation
    with ExitStack() as stack:
        flower = stack.enter_context(service(installation, "flower"))
        api = stack.enter_context(service(installation, "serve"))
        watch = Watch()
        stack.callback(watch.close)
        names = [worker.log.stem for worker in fleet.workers]
        for name in (*names, "dispatch", "serve"):
            url = metrics_of(installation, name)
            watch.start("metrics", EVERY_S, lambda url=url: fetch(url))
        key = create_key(installation.engine, f"bench-{time.time_ns()}", ["read"], "bench")
        headers = {"Authorization": f"Bearer {key}"}
        watch.start("status", EVERY_S, lambda: fetch(f"{api}/v1/jobs", headers))
        basic = base64.b64encode(LOGIN.encode()).decode()
        login = {"Authorization": f"Basic {basic}"}
        for page in ("/workers?json=1", "/tasks"):
            watch.start("Flower", FLOWER_EVERY_S, lambda at=page: fetch(f"{flower}{at}", login))
        yield watch


@contextmanager
def service(installation: Installation, command: str) -> Iterator[str]:
    """`flower` or `serve`: its address."""
    log = installation.log(command)
    log.unlink(missing_ok=True)  # an earlier one's
    process = installation.start(command)
    try:
        installation.await_ready(command)
        found = re.search(r" ready: (http://\S+)", log.read_text())
        assert found is not None
        yield found[1].rstrip("/")
    finally:
        process.terminate()
        process.wait()
        installation.processes.remove(process)


def metrics_of(installation: Installation, name: str) -> str:
    found = re.search(r"metrics on \S+, port (\d+)", installation.log(name).read_text())
    assert found is not None
    return f"http://127.0.0.1:{found[1]}/metrics"


def fetch(url: str, headers: dict[str, str] | None = None) -> bytes:
    with urlopen(Request(url, headers=headers or {}), timeout=TIMEOUT_S) as answer:
        body: bytes = answer.read()
        return body


def described(watches: Sequence[Watch]) -> str:
    """What was asked, and what failed."""
    answers: Counter[str] = sum((watch.answers for watch in watches), Counter())
    errors: Counter[str] = sum((watch.errors for watch in watches), Counter())
    counted = ", ".join(f"{n:,} answers of {name}" for name, n in answers.items())
    return f"{counted}; {errors.total()} errors {dict(errors) or ''}".strip()
