"""A web server with odd answers, and the outcome that each must have.

Some of these answers are common on the real web, others are hostile. The server keeps connections
open where HTTP permits it, so a client that waits for more is noticed.
"""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

PICTURE: Final = b"a picture"
FETCHED: Final = "fetched"
BAD: Final = "bad_response"
CRLF: Final = b"\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\n"
LENGTH: Final = b"Content-Length: 9\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"9\r\na picture\r\n0\r\n\r\n"
BODY: Final = CRLF + PICTURE
EMPTY: Final = b"Content-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Odd:
    said: bytes
    becomes: str
    """`FETCHED` or an error code."""
    closes: bool = False
    """The server closes the connection after this answer."""


def encoded(name: str, body: bytes = PICTURE) -> bytes:
    return OK + f"Content-Encoding: {name}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + CRLF + EMPTY


GOOD: Final = OK + LENGTH + BODY
GZIPPED: Final = gzip.compress(PICTURE)

ANSWERS: Final = {
    # Statuses
    "200": Odd(GOOD, FETCHED),
    "203": Odd(b"HTTP/1.1 203 Non-Authoritative\r\n" + LENGTH + BODY, FETCHED),
    "204": Odd(b"HTTP/1.1 204 No Content\r\n\r\n", "http_204"),
    "206 unasked": Odd(b"HTTP/1.1 206 Partial Content\r\n" + LENGTH + BODY, "http_206"),
    "302 to nowhere": Odd(b"HTTP/1.1 302 Found\r\n" + EMPTY, "http_302"),
    "304": Odd(b"HTTP/1.1 304 Not Modified\r\n\r\n", "http_304"),
    "404 whose page never comes": Odd(b"HTTP/1.1 404 No\r\nContent-Length: 99\r\n\r\n", "http_404"),
    "404 with a formula": Odd(b'HTTP/1.1 404 =HYPERLINK("http://a","b")\r\n' + EMPTY, "http_404"),
    "no reason": Odd(b"HTTP/1.1 200\r\n" + LENGTH + BODY, FETCHED),
    "a status of four digits": Odd(b"HTTP/1.1 2000 OK\r\n" + LENGTH + BODY, BAD),
    "a status of letters": Odd(b"HTTP/1.1 abc OK\r\n\r\n", BAD),
    "103, then 200": Odd(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + GOOD, FETCHED),
    "100, then 103, then 200": Odd(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + GOOD, FETCHED
    ),
    "101 unasked": Odd(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + GOOD, BAD),
    # Other protocols
    "HTTP/1.0": Odd(b"HTTP/1.0 200 OK\r\n" + BODY, FETCHED, closes=True),
    "HTTP/0.9": Odd(b"\xff\xd8\xff a picture", BAD, closes=True),
    "HTTP/2 in clear": Odd(b"HTTP/2 200\r\n" + LENGTH + BODY, BAD),
    "ICY": Odd(b"ICY 200 OK\r\n" + LENGTH + BODY, BAD),
    "SSH": Odd(b"SSH-2.0-OpenSSH_9.9\r\n", BAD),
    # Headers
    "LF alone": Odd(GOOD.replace(CRLF, b"\n"), FETCHED),
    "no colon": Odd(OK + b"Served by host 7\r\n" + LENGTH + BODY, BAD),
    "no colon, in chunks": Odd(OK + b"Served by host 7\r\n" + CHUNKED + CRLF + CHUNKS, BAD),
    "no name": Odd(OK + b": value\r\n" + LENGTH + BODY, FETCHED),
    "a blank before the colon": Odd(OK + b"A : b\r\n" + LENGTH + BODY, FETCHED),
    "a length before a blank": Odd(OK + b"Content-Length : 9\r\n" + BODY, BAD),
    "a folded line": Odd(OK + b"A: b\r\n c\r\n" + LENGTH + BODY, FETCHED),
    "a folded first line": Odd(OK + b" c\r\n" + LENGTH + BODY, BAD),
    "a NUL": Odd(OK + b"A: b\0c\r\n" + LENGTH + BODY, BAD),
    "a lone CR": Odd(OK + b"A: b\rc: d\r\n" + LENGTH + BODY, BAD),
    "latin-1": Odd(OK + b"A: \xe9\xff\r\n" + LENGTH + BODY, FETCHED),
    "99 headers": Odd(OK + b"A: b\r\n" * 97 + LENGTH + BODY, FETCHED),
    "many headers": Odd(OK + b"A: b\r\n" * 10_000, BAD),
    # Lengths
    "a length twice": Odd(OK + LENGTH * 2 + BODY, FETCHED),
    "a length twice in a line": Odd(OK + b"Content-Length: 9, 9\r\n" + BODY, FETCHED),
    "two lengths": Odd(OK + LENGTH + b"Content-Length: 7\r\n" + BODY, BAD),
    "two lengths in a line": Odd(OK + b"Content-Length: 9, 7\r\n" + BODY, BAD),
    "a negative length": Odd(OK + b"Content-Length: -9\r\n" + BODY, BAD),
    "a length of letters": Odd(OK + b"Content-Length: nine\r\n" + BODY, BAD),
    "a length beyond the limit": Odd(OK + b"Content-Length: 1000000000\r\n\r\na", "too_large"),
    "a length of 4301 digits": Odd(OK + b"Content-Length: " + b"9" * 4301 + BODY, "too_large"),
    "less than its length": Odd(OK + b"Content-Length: 10\r\n" + BODY, "connect", closes=True),
    # Chunks
    "chunks": Odd(OK + CHUNKED + CRLF + CHUNKS, FETCHED),
    "chunks and a length": Odd(OK + b"Content-Length: 5\r\n" + CHUNKED + CRLF + CHUNKS, FETCHED),
    "a chunk of nonsense": Odd(OK + CHUNKED + b"\r\nzz\r\na picture", BAD),
    "a negative chunk": Odd(OK + CHUNKED + b"\r\n-9\r\na picture\r\n", BAD),
    "a chunk of 17 digits": Odd(OK + CHUNKED + CRLF + b"f" * 17 + BODY, BAD),
    "a chunk that ends early": Odd(OK + CHUNKED + b"\r\n20\r\na picture", "connect", closes=True),
    "chunks without an end": Odd(OK + CHUNKED + b"\r\n9\r\na picture\r\n", "connect", closes=True),
    "gzip in transfer": Odd(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, BAD),
    "nonsense in transfer": Odd(OK + b"Transfer-Encoding: nonsense\r\n" + LENGTH + BODY, BAD),
    # Encodings
    "gzip": Odd(encoded("gzip", GZIPPED), FETCHED),
    "GZip": Odd(encoded("X-GZip", GZIPPED), FETCHED),
    "gzip that is not gzip": Odd(encoded("gzip"), BAD),
    "aws-chunked": Odd(encoded("aws-chunked"), FETCHED),
    "aws-chunked and gzip": Odd(encoded("aws-chunked, gzip", GZIPPED), FETCHED),
    "utf-8": Odd(encoded("utf-8"), FETCHED),
    "binary": Odd(encoded("binary"), FETCHED),
    "identity": Odd(encoded("identity"), FETCHED),
    "no encoding": Odd(encoded(""), FETCHED),
    "br": Odd(encoded("br"), BAD),
    "zstd": Odd(encoded("zstd"), BAD),
    "gzip twice": Odd(encoded("gzip, gzip", gzip.compress(GZIPPED)), BAD),
    # Ends
    "nothing": Odd(b"", "connect", closes=True),
    "only a status": Odd(OK, "connect", closes=True),
    # Redirects to PICTURES, below
    "to UTF-8": Odd(moved("/café.jpg".encode()), FETCHED),
    "to latin-1": Odd(moved("/café.jpg".encode("latin-1")), FETCHED),
    "to a blank": Odd(moved(b"/a b.jpg"), FETCHED),
    "to an escape": Odd(moved(b"/a%2fb.jpg"), FETCHED),
    "to a page that never comes": Odd(
        b"HTTP/1.1 301 Moved\r\nLocation: /a%20b.jpg\r\nContent-Length: 99\r\n\r\n", FETCHED
    ),
}
PICTURES: Final = ("/caf%C3%A9.jpg", "/caf%E9.jpg", "/a%20b.jpg", "/a%2fb.jpg")


class OddWeb:
    """Owns the listener, and a thread for each connection."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Request targets, as they arrived."""
        self.address = ""
        self._answers = {f"/{n}": one for n, one in enumerate(ANSWERS.values())}
        self._answers |= dict.fromkeys(PICTURES, Odd(GOOD, FETCHED))
        self._open: list[socket.socket] = []

    def uri(self, name: str) -> str:
        return f"{self.address}/{list(ANSWERS).index(name)}"

    def accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def hang_up(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            stack.enter_context(connection)
            lines = stack.enter_context(connection.makefile("rb"))
            while line := lines.readline():
                while lines.readline() not in (CRLF, b""):
                    pass
                target = line.split(b" ")[1].decode("latin-1")
                self.asked.append(target)
                answer = self._answers.get(target, Odd(b"HTTP/1.1 404 No\r\n" + EMPTY, "http_404"))
                connection.sendall(answer.said)
                if answer.closes:
                    return


@contextmanager
def serving_oddities() -> Iterator[OddWeb]:
    web = OddWeb()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        web.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=web.accept, args=(listener,))
        thread.start()
        yield web
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        web.hang_up()
