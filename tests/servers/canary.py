"""Listeners that must have no visitor, and a record of all connections this process begins."""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

PORT_TRIES = 100
V6_EVERYWHERE, V4_EVERYWHERE = "::", "0.0.0.0"

Target = tuple[str, int]
"""A host and a port."""
_begun: list[Target] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _begun.append(arguments[1][:2])


sys.addaudithook(_note)


def begun() -> list[Target]:
    """Returns the targets of connections begun since the last call, including failed ones."""
    found = _begun[:]
    del _begun[: len(found)]
    return found


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Canary:
    """Owns the listeners: every local address at each of these ports."""

    def __init__(self, *listeners: socket.socket) -> None:
        self.visits = 0
        self._waiting = selectors.DefaultSelector()
        self._ended, self._end = socket.socketpair()
        for one in (self._ended, *listeners):
            self._waiting.register(one, selectors.EVENT_READ)

    def listen(self) -> None:
        """Counts visitors until `end`."""
        while True:
            for key, _ in self._waiting.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._ended:
                    return
                key.fileobj.accept()[0].close()
                self.visits += 1

    def end(self) -> None:
        self._end.send(b".")

    def close(self) -> None:
        for one in (self._ended, self._end, self._waiting):
            one.close()


@contextmanager
def listening(*listeners: socket.socket) -> Iterator[Canary]:
    canary = Canary(*listeners)
    thread = threading.Thread(target=canary.listen)
    thread.start()
    yield canary
    canary.end()
    thread.join()
    canary.close()


def bind(host: str, port: int) -> socket.socket:
    """Opens a listener. If several share a port, the one with the most specific address is used."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in host:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
        opened.listen(1024)
    except OSError:
        opened.close()
        raise
    return opened


def bind_all(*hosts: str) -> list[socket.socket]:
    """Opens listeners on all hosts, at one port that is free on each."""
    for _ in range(PORT_TRIES):
        with ExitStack() as opened:
            sockets = [opened.enter_context(bind(hosts[0], 0))]
            port = sockets[0].getsockname()[1]
            try:
                sockets += [opened.enter_context(bind(host, port)) for host in hosts[1:]]
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            opened.pop_all()
            return sockets
    raise OSError(f"no port is free on {hosts}")
