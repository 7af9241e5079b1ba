"""Connections of urllib3 that a fetcher opens itself, so that it decides about each address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any, Protocol

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Connector(Protocol):
    """`worker.loader.fetch.fetcher.Fetcher`."""

    def connect(self, host: str, port: int) -> socket.socket: ...

    def use(self, switch: socket.socket) -> None: ...


class _Connection:
    """What both kinds of connection add: addresses that are checked, and a descriptor by which the
    watchdog can cut them.
    """

    fetcher: Connector
    switch: socket.socket | None = None
    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        connection = self.fetcher.connect(self.host, self.port)
        # TLS will take the socket over; another descriptor of it stays ours.
        self.switch = connection.dup()
        self.fetcher.use(self.switch)
        return connection

    def putrequest(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if self.switch is not None:  # a connection from the pool
            self.fetcher.use(self.switch)
        super().putrequest(*arguments, **options)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        if self.switch is not None:
            self.switch.close()
            self.switch = None


def pool_classes(
    fetcher: Connector, respond: Callable[..., HTTPResponse]
) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, whose connections are opened by `fetcher`."""
    # No method, although it is found on a class.
    ours = {"fetcher": fetcher, "response_class": staticmethod(respond)}
    http = type("Http", (_Connection, HTTPConnection), ours)
    https = type("Https", (_Connection, HTTPSConnection), ours)
    return {
        "http": type("HttpPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
    }
