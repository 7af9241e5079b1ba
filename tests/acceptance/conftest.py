"""Fixtures: installations for the real commands, and a web server for their images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import Installation, environment
from tests.pictures.demo import PICTURES


@pytest.fixture
def installation(tmp_path: Path, broker_url: str, database_url: str) -> Iterator[Installation]:
    """An installation on each database. It runs in fp32, so that answers can be compared."""
    installed = Installation(
        tmp_path,
        environment(
            tmp_path,
            RESNEXT_BROKER_URL=broker_url,
            RESNEXT_DATABASE_URL=database_url.replace("+psycopg", ""),
            RESNEXT_PRECISION="fp32",
        ),
    )
    yield installed
    installed.stop()


@pytest.fixture
def bare_installation(tmp_path: Path) -> Installation:
    """An installation without a broker or a database: `up` provides them."""
    return Installation(tmp_path, environment(tmp_path))


class _Pictures(SimpleHTTPRequestHandler):
    """Serves the demo's pictures. A request with `?held…` waits until the gate opens."""

    def __init__(self, gate: threading.Event, *arguments: Any) -> None:
        self._gate = gate
        super().__init__(*arguments, directory=str(PICTURES))

    def do_GET(self) -> None:
        if "?held" in self.path:
            self._gate.wait()
        with suppress(ConnectionError):  # the client was killed
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def web(gate) -> Iterator[str]:
    """The address of a real HTTP server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pictures, gate))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


PHOTOGRAPHS = ("chelsea.jpg", "coffee.jpg", "shepherd.jpg", "goldfish.jpg")


@pytest.fixture
def many(web: str) -> list[str]:
    """40 different URIs of a few photographs.

    The last two chunks wait at the gate, so that a test can stop things in mid-job.
    """
    photographs = [PHOTOGRAPHS[n % len(PHOTOGRAPHS)] for n in range(40)]
    words = ["n"] * 24 + ["held"] * 16
    return [
        f"{web}/{photograph}?{word}={n}"
        for n, (photograph, word) in enumerate(zip(photographs, words, strict=True))
    ]
