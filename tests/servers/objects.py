"""An S3 server on loopback, and a server whose answers a test sets, for tests of object stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from tests.servers.sites import answering


class S3Server:
    """A moto server. It checks no signature."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def make_bucket(self, bucket: str) -> None:
        self._put(bucket, b"")

    def put(self, bucket: str, key: str, body: bytes) -> None:
        self._put(f"{bucket}/{quote(key)}", body)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Returns the object's body; None: there is no such object."""
        store = S3Store(
            bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="key",
            secret_access_key="secret",
            client_options={"allow_http": True},
        )
        with suppress(FileNotFoundError):
            return bytes(obstore.get(store, key).bytes())
        return None

    def _put(self, path: str, body: bytes) -> None:
        headers = {"Content-Type": "image/jpeg"}
        address = f"{self.endpoint}/{path}"
        urlopen(Request(address, data=body, headers=headers, method="PUT")).close()


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        # All moto servers in a process share their buckets.
        urlopen(Request(f"{endpoint}/moto-api/reset", data=b"", method="POST")).close()
        yield S3Server(endpoint)
    finally:
        server.stop()


class Store:
    """Answers every request with the same status, headers and pieces of a body."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.status = 200
        self.length = 0
        self.pieces: list[bytes] = []
        self.paths: list[str] = []
        self.authorized: list[bool] = []
        self.go_on = threading.Event()
        """Once set, the body ends. Until then the server waits after each piece."""


class _Request(BaseHTTPRequestHandler):
    store: Store

    def do_GET(self) -> None:
        store = self.store
        store.paths.append(unquote(self.path))
        store.authorized.append("Authorization" in self.headers)
        with suppress(ConnectionError):
            self.send_response(store.status)
            self.send_header("Content-Length", str(store.length))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            for piece in store.pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                store.go_on.wait(60)

    def do_HEAD(self) -> None:
        self.send_response(self.store.status)
        self.send_header("Content-Length", str(self.store.length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_answers() -> Iterator[Store]:
    store = Store()
    with answering(type("Request", (_Request,), {"store": store}), "127.0.0.1") as store.endpoint:
        yield store
        store.go_on.set()
