"""A server that sends arbitrary bytes, which no HTTP server library would do."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

Answer = Callable[[socket.socket], object]
"""Called with the connection once a request, or part of one, has arrived."""


def saying(*pieces: bytes) -> Answer:
    return lambda connection: connection.sendall(b"".join(pieces))


class RawServer:
    """Owns the listener, and a thread per connection."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None, host: str) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server((host, 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    @property
    def address(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(suppress(OSError))  # the client has gone
            stack.enter_context(connection)
            if self._tls is not None:
                connection = stack.enter_context(
                    self._tls.wrap_socket(connection, server_side=True)
                )
            self.requests.append(connection.recv(65536))
            self._answer(connection)


@contextmanager
def serving(
    answer: Answer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[RawServer]:
    server = RawServer(answer, tls, host)
    thread = threading.Thread(target=server.accept)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
