"""Web sites for the tests. Each has its own loopback address, and so counts as its own host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from PIL import Image

from tests.wait import WITHIN_S

LOOPBACK = "127.0.0.0/8"


def picture() -> bytes:
    content = BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    return content.getvalue()


class Site:
    """Answers every path with a picture, but waits while the site is not open."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.open = threading.Event()
        self.open.set()
        self.begun = 0
        self.peak = 0
        """The most requests at one time."""
        self.now = 0
        self._lock = threading.Lock()
        self._picture = picture()

    def uris(self, number: int) -> list[str]:
        return [f"{self.address}/{n}.png" for n in range(number)]

    def answer(self) -> bytes:
        with self._lock:
            self.begun += 1
            self.now += 1
            self.peak = max(self.peak, self.now)
        assert self.open.wait(WITHIN_S)
        with self._lock:
            self.now -= 1
        return self._picture


class _Request(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        body = self.site.answer()
        with suppress(ConnectionError):  # the client has gone
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(host: str) -> Iterator[Site]:
    """Yields a site on `127.0.0.N`; each N is another host."""
    site = Site("")
    with answering(type("Request", (_Request,), {"site": site}), host) as site.address:
        yield site
        site.open.set()


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], host: str) -> Iterator[str]:
    """Yields the address of a server with a thread for each request."""
    with ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{host}:{server.server_address[1]}"
        server.shutdown()
        thread.join()
