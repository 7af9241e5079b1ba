"""From a URI to bytes, over real HTTP and from real files: what is fetched and what is refused."""

from __future__ import annotations

import gzip
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from contract.failure import Failure
from tests.fetching import Fetching
from worker.loader.fetch.fetcher import Fetched

LIMIT_BYTES = 100_000
PICTURE = bytes(range(256)) * 100


class Server(BaseHTTPRequestHandler):
    """Answers each path in a different way: see the methods."""

    over = threading.Event()
    agents: list[str]

    def do_GET(self) -> None:
        what, _, rest = self.path[1:].partition("/")
        self.agents.append(self.headers["User-Agent"])
        getattr(self, f"answer_{what}")(rest)

    def answer_ok(self, _: str) -> None:
        self.reply(PICTURE)

    def answer_status(self, status: str) -> None:
        self.reply(b"words", int(status))

    def answer_to(self, address: str) -> None:
        self.reply(b"", 302, Location=unquote(address))

    def answer_hop(self, left: str) -> None:
        """Redirect `left` more times, then send a picture."""
        self.answer_to(f"/hop/{int(left) - 1}" if int(left) else "/ok")

    def answer_declares(self, length: str) -> None:
        """Announce a body of this length, but do not send it."""
        self.send_response(200)
        self.send_header("Content-Length", length)
        self.end_headers()

    def answer_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.over.is_set():
            self.wfile.write(PICTURE)

    def answer_inflates(self, _: str) -> None:
        """Send a body that unpacks to a thousand times its size."""
        self.reply(gzip.compress(bytes(1000 * LIMIT_BYTES)), **{"Content-Encoding": "gzip"})

    def answer_silent(self, _: str) -> None:
        self.over.wait()

    def answer_drips(self, _: str) -> None:
        """Send a byte now and then, so that no socket timeout ever expires."""
        self.send_response(200)
        self.end_headers()
        while not self.over.wait(0.02):
            self.wfile.write(b".")

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has hung up
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def agents() -> list[str]:
    """The User-Agent header of each request."""
    return []


@pytest.fixture
def address(agents: list[str]) -> Iterator[str]:
    over = threading.Event()
    handler = type("Handler", (Server,), {"over": over, "agents": agents})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        over.set()
        server.shutdown()
        thread.join()


def make_fetcher(**limits: Any) -> Fetching:
    usual = {"fetch_allow": ("127.0.0.1",), "max_image_bytes": LIMIT_BYTES, "max_redirects": 3}
    return Fetching(**usual | limits)


def failure_of(uri: str, **limits: Any) -> Failure:
    return make_fetcher(**limits).failure(uri)


def test_a_body_arrives_as_sent_and_the_request_identifies_us(
    address: str, agents: list[str]
) -> None:
    fetched = make_fetcher(contact="mailto:me@example.org").fetch(f"{address}/ok")
    assert fetched == Fetched(PICTURE)
    assert agents[0].startswith("resnext-queue/")
    assert "mailto:me@example.org" in agents[0]


@pytest.mark.parametrize("status", [204, 301, 403, 404, 410, 429, 500, 503])
def test_any_other_status_has_its_own_code(address: str, status: int) -> None:
    assert failure_of(f"{address}/status/{status}").code == f"http_{status}"


@pytest.mark.parametrize(
    "path", [f"declares/{LIMIT_BYTES + 1}", "endless", "inflates"], ids=lambda path: path[:8]
)
def test_a_body_above_the_limit_is_refused_however_it_is_sent(address: str, path: str) -> None:
    assert failure_of(f"{address}/{path}").code == "too_large"


def test_a_body_of_exactly_the_limit_is_accepted(address: str) -> None:
    fetcher = make_fetcher(max_image_bytes=len(PICTURE))
    assert fetcher.body(f"{address}/ok") == PICTURE


@pytest.mark.parametrize("path", ["silent", "drips"])
def test_the_deadline_ends_a_fetch_wherever_it_hangs(address: str, path: str) -> None:
    assert failure_of(f"{address}/{path}", fetch_deadline_s=0.3).code == "timeout"


def test_an_incomplete_body_is_a_connection_error(address: str) -> None:
    assert failure_of(f"{address}/declares/100").code == "connect"


# Redirects


def test_redirects_are_followed_and_the_last_uri_is_recorded(address: str) -> None:
    fetched = make_fetcher().fetch(f"{address}/hop/2")
    assert fetched == Fetched(PICTURE, f"{address}/ok")
    assert failure_of(f"{address}/hop/3").code == "too_many_redirects"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("file:///etc/hostname", "blocked_path"),
        ("gopher://127.0.0.1/", "blocked_scheme"),
        ("http://169.254.169.254/latest/meta-data", "blocked_address"),
        ("http://[::1]:80/", "blocked_address"),
        ("http://me:secret@127.0.0.1/", "bad_uri"),
    ],
)
def test_a_redirect_must_follow_the_same_rules_as_a_uri(
    address: str, target: str, code: str
) -> None:
    uri = f"{address}/to/{quote(target)}"
    assert failure_of(uri, file_roots=(Path("/etc"),)).code == code


# Addresses


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "10.0.0.1", "192.168.1.1", "[::1]", "0.0.0.0"]
)
def test_a_private_address_is_blocked_unless_it_is_allowed(host: str) -> None:
    assert failure_of(f"http://{host}:9/a.jpg", fetch_allow=()).code == "blocked_address"


def test_an_allowed_address_is_fetched_from(address: str) -> None:
    port = address.rpartition(":")[2]
    fetcher = make_fetcher(fetch_allow=(f"127.0.0.1:{port}",))
    assert fetcher.body(f"{address}/ok") == PICTURE
    assert failure_of("http://127.0.0.1:9/", fetch_allow=(f"127.0.0.1:{port}",)).code == (
        "blocked_address"
    )


def test_a_refused_connection_is_reported(address: str) -> None:
    assert failure_of("http://127.0.0.1:9/a.jpg") == Failure("connect", "connection refused")


# Files


def test_a_file_under_a_root_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a picture%#?.jpg"
    path.write_bytes(PICTURE)
    assert make_fetcher(file_roots=(tmp_path,)).fetch(path.as_uri()) == Fetched(PICTURE)


def test_a_file_outside_the_roots_is_not_even_looked_up(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.jpg"
    root.mkdir()
    outside.write_bytes(PICTURE)
    (root / "link.jpg").symlink_to(outside)
    for uri in (
        outside.as_uri(),
        f"{root.as_uri()}/../outside.jpg",
        (root / "link.jpg").as_uri(),
        (tmp_path / "gone.jpg").as_uri(),
    ):
        assert failure_of(uri, file_roots=(root,)).code == "blocked_path"
        assert failure_of(uri, file_roots=()).code == "blocked_path"


def test_each_kind_of_unreadable_file_has_its_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(LIMIT_BYTES + 1))
    codes = {"gone": "not_found", "pipe": "unreadable", ".": "unreadable", "large": "too_large"}
    for name, code in codes.items():
        uri = f"{tmp_path.as_uri()}/{name}"
        assert failure_of(uri, file_roots=(tmp_path,)).code == code, name


def test_a_folder_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    fetcher = make_fetcher(file_roots=(tmp_path,))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        fetcher.failure((tmp_path / "folder").as_uri())
    assert len(list(descriptors.iterdir())) <= before


def test_a_loader_without_free_descriptors_retries_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PICTURE)
    fetcher = make_fetcher(file_roots=(tmp_path,))
    assert fetcher.fetch(path.as_uri()) == Fetched(PICTURE)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, usual[1]))  # 0 to 2 are open
    try:
        failure = fetcher.failure(path.as_uri())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert failure.retried
