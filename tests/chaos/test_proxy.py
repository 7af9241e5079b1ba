"""The suite's proxy: a cut connection stays silent, and the proxy itself ends silently."""

from __future__ import annotations

import gc
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.chaos.proxy import Proxy

WITHIN_S = 300.0
# More than both sockets and the proxy can buffer for a peer that reads nothing.
MUCH = bytes(2**24)
Connect = Callable[[], socket.socket]


class Server:
    """Accepts connections, and gives a test its side of each."""

    def __init__(self, path: Path) -> None:
        self.accepted: SimpleQueue[socket.socket] = SimpleQueue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)

    @contextmanager
    def open(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with ExitStack() as ending:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:  # the test is over
                    return
                ending.enter_context(connection)
                connection.settimeout(WITHIN_S)
                self.accepted.put(connection)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "socket")
    with server.open():
        yield server


@pytest.fixture
def proxy(server: Server, tmp_path: Path, caplog) -> Iterator[Proxy]:
    """A proxy that must end without warnings, whatever the test did with its connections."""
    proxy = Proxy(tmp_path / "socket")
    proxy.start()
    yield proxy
    proxy.end()
    gc.collect()  # a leaked socket or task causes a warning, and so an error
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    with ExitStack() as ending:

        def make() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", proxy.port), WITHIN_S)
            return ending.enter_context(connection)

        yield make


def reset(connection: socket.socket) -> None:
    """Closes the connection as a peer that has died would."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_bytes_pass_in_both_directions_and_so_does_the_end(
    server: Server, connect: Connect
) -> None:
    outer = connect()
    outer.sendall(b"ping")
    inner = server.accepted.get(timeout=WITHIN_S)
    assert inner.recv(4) == b"ping"
    inner.sendall(b"pong")
    assert outer.recv(4) == b"pong"
    outer.close()
    assert inner.recv(1) == b""


def test_a_reset_is_passed_on_as_an_end(server: Server, connect: Connect) -> None:
    outer = connect()
    outer.sendall(b"ping")
    inner = server.accepted.get(timeout=WITHIN_S)
    assert inner.recv(4) == b"ping"
    reset(outer)
    assert inner.recv(1) == b""


def test_neither_side_notices_a_cut_and_a_new_connection_works(
    proxy: Proxy, server: Server, connect: Connect
) -> None:
    cut, closed = connect(), connect()
    for one in (cut, closed):
        one.sendall(b"ping")
    inner = [server.accepted.get(timeout=WITHIN_S) for _ in range(2)]
    assert [one.recv(4) for one in inner] == [b"ping"] * 2
    proxy.cut()
    proxy.mend()
    new = connect()
    new.sendall(b"new!")
    newest = server.accepted.get(timeout=WITHIN_S)
    assert newest.recv(4) == b"new!"  # so the cut has happened
    cut.sendall(b"lost")
    closed.close()
    new.sendall(b"more")
    assert newest.recv(4) == b"more"  # so what was sent before has been read
    for one in inner:
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recv(1)


def test_the_proxy_ends_while_a_peer_reads_nothing(
    proxy: Proxy, server: Server, connect: Connect
) -> None:
    outer = connect()
    outer.settimeout(0)
    with suppress(BlockingIOError):
        while True:
            outer.send(MUCH)
    assert server.accepted.get(timeout=WITHIN_S).recv(1) == b"\0"


def test_the_proxy_ends_while_connections_wait_for_it_to_be_mended(
    proxy: Proxy, server: Server, connect: Connect
) -> None:
    old = connect()
    old.sendall(b"ping")
    assert server.accepted.get(timeout=WITHIN_S).recv(4) == b"ping"
    proxy.cut()
    reset(connect())
    connect().sendall(b"ping")
    reset(old)
