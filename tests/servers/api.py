"""A server of the HTTP API, in this process or in its own, and callers with and without a key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn
from sqlalchemy import Engine
from starlette.types import ASGIApp

from contract.settings import Settings
from producer.api.app import make_app
from producer.api.keys import create_key
from producer.api.server import listen, url_of
from tests.wait import WITHIN_S, until


@dataclass
class Caller:
    """Sends requests with a key, or without one if it is None."""

    url: str
    key: str | None

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = dict(options.pop("headers", {}))
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        return requests.request(
            method, self.url + path, headers=headers, timeout=WITHIN_S, **options
        )

    def get(self, path: str, **options: Any) -> requests.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self("POST", path, **options)

    def pages(self, path: str, what: str, query: str) -> list[dict[str, Any]]:
        """The list `what` of all pages, read one after another."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.get(f"{path}?{query}{cursor}")
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page[what]
            if page["next"] is None:
                return found
            cursor = f"&cursor={page['next']}"


@dataclass
class Api:
    """A server, and callers with different rights."""

    url: str
    submitter: Caller
    reader: Caller
    stranger: Caller


def serve(
    engine: Engine,
    settings: Settings,
    make: Callable[[Engine, Settings], ASGIApp] = make_app,
) -> Iterator[Api]:
    """Starts a server. `make` is `make_app`, or `make_site` to serve the pages as well."""
    settings = settings.model_copy(update={"api_port": 0})
    with listen(settings) as listener:
        url = url_of(listener)
        config = uvicorn.Config(make(engine, settings), log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        until(lambda: server.started)
        submit = create_key(engine, "submitter", ["read", "submit"], "ann")
        read = create_key(engine, "reader", ["read"], "bob")
        yield Api(url, Caller(url, submit), Caller(url, read), Caller(url, None))
        server.should_exit = True
        thread.join(WITHIN_S)
        assert not thread.is_alive()


@contextmanager
def running(settings: Settings, log: Path, **variables: str) -> Iterator[tuple[int, str]]:
    """Runs `resnextq serve` as a process on any free port. Yields its process id and URL."""
    environment = {
        "RESNEXT_DATABASE_URL": settings.database(),
        "RESNEXT_BROKER_URL": settings.broker(),
        "RESNEXT_API_PORT": "0",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("resnextq"), "serve"],
            env=os.environ | environment | variables,
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: " ready: " in log.read_text() or process.poll() is not None, log.read_text)
        found = re.search(r" ready: (\S+)", log.read_text())
        assert found, log.read_text()
        yield process.pid, found[1]
    finally:
        process.terminate()
        process.wait(WITHIN_S)
