"""A server that takes any number of requests and answers none, in one thread."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SilentServer:
    """Owns the listener and the connections."""

    def __init__(self, expected: int) -> None:
        self.full = threading.Event()
        """Set once the expected number of requests has arrived."""
        self._expected = expected
        self._waiting = selectors.DefaultSelector()
        self._ended, self._end = socket.socketpair()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Accepts connections until `end`."""
        asked: list[socket.socket] = []
        for one in (self._ended, self._listener):
            self._waiting.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in self._waiting.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._ended:
                    self._close(asked)
                    return
                if key.fileobj is self._listener:
                    self._waiting.register(self._listener.accept()[0], selectors.EVENT_READ)
                    continue
                asked.append(key.fileobj)
                self._waiting.unregister(key.fileobj)
                if len(asked) == self._expected:
                    self.full.set()

    def end(self) -> None:
        self._end.send(b".")

    def _close(self, asked: list[socket.socket]) -> None:
        left = [key.fileobj for key in self._waiting.get_map().values()]
        for one in (*asked, *left, self._end):
            assert isinstance(one, socket.socket)
            one.close()
        self._waiting.close()


@contextmanager
def serving_silence(expected: int) -> Iterator[SilentServer]:
    server = SilentServer(expected)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.end()
    thread.join()
