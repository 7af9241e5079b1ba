"""A server of the HTTP API on a socket of its own, and callers with and without a key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
import uvicorn
from sqlalchemy import Engine

from contract.settings import Settings
from producer.api.app import make_app
from producer.api.keys import create_key
from producer.api.server import listen, url_of
from tests.wait import WITHIN_S, until


@dataclass
class Caller:
    """Sends requests with a key, or without one."""

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


@dataclass
class Api:
    """A server, and who may do what."""

    url: str
    submitter: Caller
    reader: Caller
    stranger: Caller


def serve(engine: Engine, settings: Settings) -> Iterator[Api]:
    settings = settings.model_copy(update={"api_port": 0})
    with listen(settings) as listener:
        url = url_of(listener)
        config = uvicorn.Config(make_app(engine, settings), log_config=None)
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
