"""Web sites for the tests, each on a loopback address of its own and so a host of its own, and a
pool that loads from them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.integration.dispatching import WITHIN_S
from worker.pool.pool import Loaded, LoaderPool, LoadFailed

LOOPBACK = "127.0.0.0/8"


def picture() -> bytes:
    content = BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    return content.getvalue()


class Site:
    """Answers every path with a picture, as long as it is open; else it waits for that."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.open = threading.Event()
        self.open.set()
        self.begun = 0
        self.peak = 0
        """Requests at one time, at most."""
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
        with suppress(ConnectionError):  # whoever asked has had enough
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(host: str) -> Iterator[Site]:
    """On `127.0.0.N`: another N is another host."""
    site = Site("")
    with answering(type("Request", (_Request,), {"site": site}), host) as site.address:
        yield site
        site.open.set()


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], host: str) -> Iterator[str]:
    """The address of a server with a thread for each request."""
    with ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{host}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class SitePool:
    """A pool of loaders, and what comes of its images, by host and in any order."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.inner = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing, **options)
        self._answers: SimpleQueue[tuple[str, bool]] = SimpleQueue()

    def load(self, *uris: str) -> None:
        for uri in uris:
            self.inner.load(uri, self._note(uri.rpartition("/")[0]))

    def _note(self, address: str) -> Callable[[Loaded | LoadFailed], None]:
        def done(load: Loaded | LoadFailed) -> None:
            if isinstance(load, Loaded):
                load.release()
            self._answers.put((address, isinstance(load, Loaded)))

        return done

    def answers(self, number: int) -> Counter[tuple[str, bool]]:
        """The next ones: of which address, and whether there were pixels."""
        try:
            return Counter(self._answers.get(timeout=WITHIN_S) for _ in range(number))
        except Empty:
            raise AssertionError("an image has no answer") from None


MakePool = Callable[..., SitePool]


def making_pools(**usual: Any) -> Iterator[MakePool]:
    """For a fixture: pools that are started, and closed at its end."""
    pools: list[SitePool] = []

    def make(*, options: dict[str, Any] | None = None, **settings: Any) -> SitePool:
        values = {"loaders": 1, "fetch_allow": (LOOPBACK,)} | usual | settings
        pools.append(SitePool(Settings(**values), **options or {}))
        pools[-1].inner.start()
        return pools[-1]

    yield make
    for pool in pools:
        pool.inner.close()
