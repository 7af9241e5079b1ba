"""A real HTTP server for a file of weights that can cut, lie, refuse and fall silent."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from resnext.spec.model import PublishedWeights
from resnext.weights import download

CONTENT = os.urandom(3 * download.BLOCK_BYTES + 12_345)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Publisher:
    """The content of the server, and how the server misbehaves."""

    content: bytes = CONTENT
    etag: str = '"version-1"'
    cut_after: list[int] = field(default_factory=list)
    """For each of the next answers, the bytes of body after which the connection is cut."""
    status: int = 200
    says_length: bool = True
    knows_ranges: bool = True
    answer: threading.Event = field(default_factory=threading.Event)
    """Answers wait for this event."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    """A cut body ends only after this event."""
    asked: threading.Event = field(default_factory=threading.Event)
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    address: str = ""

    def __post_init__(self) -> None:
        self.answer.set()
        self.goes_on.set()

    def file(self, **known: object) -> PublishedWeights:
        return PublishedWeights(address=self.address + "/some/weights.pth", licence="none", **known)  # type: ignore[arg-type]


def handler_of(publisher: Publisher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.ranges.append(self.headers["Range"])
            publisher.asked.set()
            publisher.answer.wait()
            begin = self._begin()
            if publisher.status != 200 or begin >= len(publisher.content) > 0:
                self.send_response(publisher.status if publisher.status != 200 else 416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send(begin)

        def _begin(self) -> int:
            same = self.headers["If-Range"] == publisher.etag
            if publisher.knows_ranges and same and self.headers["Range"]:
                return int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            return 0

        def _send(self, begin: int) -> None:
            total = len(publisher.content)
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            if publisher.etag:
                self.send_header("ETag", publisher.etag)
            if publisher.says_length:
                self.send_header("Content-Length", str(total - begin))
            self.end_headers()
            end = begin + publisher.cut_after.pop(0) if publisher.cut_after else total
            with suppress(OSError):  # the other side may have been killed
                self.wfile.write(publisher.content[begin:end])
            publisher.goes_on.wait()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def publishing() -> Iterator[Publisher]:
    """Yields what a new server publishes, with the server's address."""
    published = Publisher()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(published))
    published.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield published
    finally:
        published.answer.set()
        published.goes_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
