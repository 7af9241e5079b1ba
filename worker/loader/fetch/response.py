"""An answer of a server as far as it is taken: so many bytes of headers, so many on the wire.

urllib3 makes one for each request of `worker.loader.fetch.fetcher`. http.client bounds a line and
the number of lines, and neither how many interim answers come before the headers nor how many lines
after the body; so every byte that is read from the connection is counted here.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterable
from typing import Any, Final

from contract.failure import Failure

# Browsers take as many.
MOST_HEAD_BYTES: Final = 256 * 1024
# Chunks carry their lengths, and an encoding may make a body a little longer.
WIRE_OVERHEAD: Final = 1 / 8
# Never asked for, and some servers encode all the same. One alone, of those that zlib unpacks
# piece by piece.
ENCODINGS: Final = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


class UnusableResponse(Exception):
    """The server's answer is given up; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class BoundedResponse(http.client.HTTPResponse):
    """In place of http.client's own: the same, with an end."""

    def __init__(self, connection: socket.socket, *, most_body_bytes: int, method: str) -> None:
        super().__init__(connection, method=method)
        self._most_body_bytes = most_body_bytes
        self._wire = _Wire(self.fp.detach())
        self.fp = io.BufferedReader(self._wire)

    def begin(self) -> None:
        """Reads the headers; from then on the body may come."""
        super().begin()
        self._wire.begin_body(self._most_body_bytes)


class _Wire(io.RawIOBase):
    """What is read from the connection, counted."""

    def __init__(self, connection: io.RawIOBase) -> None:
        self._connection = connection
        self._left = MOST_HEAD_BYTES
        self._failure = Failure("bad_response", f"more than {MOST_HEAD_BYTES} bytes of headers")

    def begin_body(self, most_bytes: int) -> None:
        self._left += most_bytes + round(most_bytes * WIRE_OVERHEAD)
        self._failure = Failure("too_large", f"more than {most_bytes} bytes")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401  (whatever takes bytes)
        """
        Raises:
            UnusableResponse: more than may come has come.
        """
        count = self._connection.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise UnusableResponse(self._failure)
        return count

    def close(self) -> None:
        self._connection.close()
        super().close()


def check_encoding(values: Iterable[str]) -> None:
    """
    Raises:
        UnusableResponse: the body is packed in a way that was not asked for, or more than once.
    """
    encoding = ", ".join(values).strip().lower()
    if encoding not in ENCODINGS:
        raise UnusableResponse(Failure("bad_response", "a Content-Encoding not asked for"))
