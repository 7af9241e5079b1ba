"""Ways to reach a server: its next address, a proxy, headers for its host."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.errors import SettingsError
from contract.failure import Failure
from contract.settings import Settings
from tests.fetching import Fetching
from tests.servers import canary
from tests.servers.names import NameServer, serving_names
from tests.servers.raw import saying, serving
from tests.servers.tls import AUTHORITY, tls_of
from worker.loader.fetch.fetcher import Fetched
from worker.loader.fetch.settings import FetchSettings

PICTURE = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na picture")
FOR_EVER_S = 3600.0


def make_fetcher(**settings: Any) -> Fetching:
    usual = {"fetch_allow": ("127.0.0.0/8",), "fetch_deadline_s": FOR_EVER_S}
    return Fetching(**usual | settings)


@pytest.fixture
def names(monkeypatch) -> Iterator[NameServer]:
    with serving_names(monkeypatch) as names:
        yield names


# Addresses


@contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """Open a listener with a full queue, which drops new connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(2):
            one = stack.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        yield


def test_the_next_address_is_tried_if_the_first_does_not_answer(names: NameServer) -> None:
    """The deadline is too long to help here."""
    with serving(PICTURE, host="127.0.0.2") as server, black_hole("127.0.0.1", server.port):
        names.has("half-dead.test", ("127.0.0.1", "127.0.0.2"))
        canary.begun()
        assert make_fetcher().body(f"http://half-dead.test:{server.port}/a.jpg") == b"a picture"
        assert [host for host, _ in canary.begun()] == ["127.0.0.1", "127.0.0.2"]


def test_addresses_that_refuse_are_skipped(names: NameServer) -> None:
    with serving(PICTURE) as server:
        names.has("half-down.test", ("127.0.0.2", "127.0.0.3", "127.0.0.1"))
        uri = f"http://half-down.test:{server.port}/a.jpg"
        assert make_fetcher().body(uri) == b"a picture"


# A proxy


def test_with_a_proxy_names_are_not_looked_up_here(names: NameServer) -> None:
    with serving(PICTURE) as proxy:
        names.has("proxy.test", ("127.0.0.1",))
        fetcher = make_fetcher(fetch_allow=(), fetch_proxy=f"http://me:pw@proxy.test:{proxy.port}")
        assert fetcher.body("http://far.test/a%2fb.jpg?c") == b"a picture"
    request = proxy.requests[0]
    assert request.startswith(b"GET http://far.test:80/a%2fb.jpg?c HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:pw") in request
    assert {name for name, _ in names.asked} == {"proxy.test"}


def test_a_proxy_relays_tls_without_reading_it(monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(AUTHORITY))

    def relay(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: proxy\r\n\r\n")
        with tls_of("good").wrap_socket(connection, server_side=True) as inside:
            requests.append(inside.recv(65536))
            inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na picture")

    requests: list[bytes] = []
    with serving(relay) as proxy:
        fetcher = make_fetcher(fetch_proxy=f"http://me:pw@127.0.0.1:{proxy.port}")
        assert fetcher.body("https://127.0.0.1:8443/a.jpg") == b"a picture"
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:8443 HTTP/1.1\r\n")
    assert b"User-Agent: resnext-queue/" in proxy.requests[0]
    assert b"curl" not in proxy.requests[0].lower()
    assert requests[0].startswith(b"GET /a.jpg HTTP/1.1\r\n")
    assert b"Proxy-" not in requests[0]


def test_a_refusing_or_unreachable_proxy_is_named_as_the_cause() -> None:
    refusing = saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!")
    with serving(refusing) as proxy:
        fetcher = make_fetcher(fetch_proxy=f"http://127.0.0.1:{proxy.port}")
        failure = fetcher.failure("https://far.test/a.jpg")
        assert failure == Failure("connect", "the proxy refused, or cannot be reached")
        assert fetcher.failure("http://far.test/a.jpg").code == "http_403"
    gone = fetcher.failure("http://far.test/a.jpg")
    assert (gone.code, gone.retried) == ("connect", True)


@pytest.mark.parametrize("host", ["169.254.169.254", "[::1]", "0x7f.1"])
def test_private_addresses_are_blocked_with_a_proxy_as_well(host: str) -> None:
    with serving(PICTURE) as proxy:
        fetcher = make_fetcher(fetch_allow=(), fetch_proxy=f"http://127.0.0.1:{proxy.port}")
        assert fetcher.failure(f"http://{host}/a.jpg").code == "blocked_address"
        assert proxy.requests == []


# Headers


def headers_for(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_headers_go_only_to_their_host_even_after_a_redirect(
    names: NameServer, tmp_path: Path
) -> None:
    headers = headers_for(
        tmp_path / "headers",
        "# of the operator",
        "",
        "Own.test: Authorization: Bearer s3cr3t",
        "own.test: Cookie: a=b; c=d",
        "own.test:Accept: image/png",
        "own.test: User-Agent: ours",
    )
    for name in ("own.test", "other.test"):
        names.has(name, ("127.0.0.1",))
    with serving(PICTURE) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://other.test:{other.port}/b.jpg\r\n"
        with serving(saying(moved.encode(), b"Content-Length: 0\r\n\r\n")) as own:
            fetcher = make_fetcher(fetch_headers=headers)
            fetched = fetcher.fetch(f"http://OWN.test:{own.port}/a.jpg")
            assert fetched == Fetched(b"a picture", f"http://other.test:{other.port}/b.jpg")
            fetcher.body(f"http://other.test:{other.port}/c.jpg")
    lines = own.requests[0].decode().split("\r\n")
    assert {"Authorization: Bearer s3cr3t", "Cookie: a=b; c=d"} < set(lines)
    assert [line for line in lines if line.startswith("Accept:")] == ["Accept: image/png"]
    assert [line for line in lines if line.startswith("User-Agent:")] == ["User-Agent: ours"]
    for request in other.requests:
        assert b"s3cr3t" not in request
        assert b"Cookie" not in request
        assert b"Accept: image/*" in request


@pytest.mark.parametrize(
    "line",
    [
        "own.test",
        "own.test: s3cr3t",
        "own.test: Host: s3cr3t",
        "own.test: Transfer-Encoding: s3cr3t",
        "own.test: Na me: s3cr3t",
        "own.test: Name: s3cr3t\u00e9",
    ],
)
def test_the_error_for_a_bad_header_names_the_line_and_hides_the_value(
    tmp_path: Path, line: str
) -> None:
    headers = headers_for(tmp_path / "headers", "own.test: Cookie: a", line)
    with pytest.raises(SettingsError, match=r"line 2 of .*headers is not a header") as refused:
        FetchSettings.of(Settings(fetch_headers=headers))
    assert "s3cr3t" not in str(refused.value)


def test_a_missing_headers_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"RESNEXT_FETCH_HEADERS is .* cannot be read"):
        FetchSettings.of(Settings(fetch_headers=tmp_path / "none"))
