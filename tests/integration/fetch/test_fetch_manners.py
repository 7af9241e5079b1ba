"""What a fetch reveals about us, which is little, and what it leaves alone."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from contract.failure import Failure
from tests.fetching import Fetching
from tests.servers.raw import saying, serving
from worker.loader.fetch.fetcher import Fetched

PICTURE = saying(
    b"HTTP/1.1 200 OK\r\nSet-Cookie: seen=yes; Path=/\r\nContent-Length: 9\r\n\r\na picture"
)
SECRETS = ("s3cr3t", base64.b64encode(b"me:s3cr3t").decode())


def make_fetcher(**limits: Any) -> Fetching:
    return Fetching(**{"fetch_allow": ("127.0.0.1",)} | limits)


def names_of(request: bytes) -> set[str]:
    """The names of the request's headers."""
    return {line.partition(":")[0].lower() for line in request.decode().split("\r\n")[1:] if line}


@pytest.fixture
def _credentials_around(monkeypatch, tmp_path: Path) -> None:
    """Provide credentials in every place where other programs look for them."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cr3t\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


@pytest.mark.usefixtures("_credentials_around")
def test_a_request_has_no_headers_besides_the_necessary_ones() -> None:
    """This holds for the first request, after a redirect to another port, and after a cookie."""
    with serving(PICTURE) as other:
        to_other = f"HTTP/1.1 302 Found\r\nLocation: {other.address}/b.jpg\r\n"
        first = saying(to_other.encode(), b"Set-Cookie: seen=yes\r\nContent-Length: 0\r\n\r\n")
        with serving(first) as server:
            fetcher = make_fetcher()
            for _ in range(2):
                fetched = fetcher.fetch(f"{server.address}/a.jpg")
                assert fetched == Fetched(b"a picture", f"{other.address}/b.jpg")
            requests = server.requests + other.requests
    assert len(requests) == 4
    for request in requests:
        assert names_of(request) == {"host", "user-agent", "accept", "accept-encoding"}
        assert not any(secret.encode() in request for secret in SECRETS)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_in_the_environment_is_not_used(scheme: str, monkeypatch) -> None:
    with serving(PICTURE) as proxy, serving(PICTURE) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for variable in (name, name.upper()):
                monkeypatch.setenv(variable, f"http://me:s3cr3t@127.0.0.1:{proxy.port}")
        uri = f"{scheme}://127.0.0.1:{server.port}/a.jpg"
        if scheme == "http":
            assert make_fetcher().body(uri) == b"a picture"
        else:  # the server does not speak TLS, but the request reached it
            assert make_fetcher().failure(uri).code == "tls"
        assert len(server.requests) == 1
        assert proxy.requests == []


# Ports


def test_only_the_configured_ports_are_fetched_from() -> None:
    with serving(PICTURE) as server, serving(PICTURE) as other:
        fetcher = make_fetcher(fetch_ports=(server.port, 80))
        assert fetcher.body(f"{server.address}/a.jpg") == b"a picture"
        assert fetcher.failure(f"{other.address}/a.jpg").code == "blocked_port"
        assert other.requests == []


def test_a_redirect_to_another_port_is_blocked() -> None:
    with serving(PICTURE) as other:
        to_other = f"HTTP/1.1 302 Found\r\nLocation: {other.address}/\r\nContent-Length: 0\r\n\r\n"
        with serving(saying(to_other.encode())) as server:
            failure = make_fetcher(fetch_ports=(server.port,)).failure(f"{server.address}/")
        assert failure == Failure(
            "blocked_port", f"redirect: {other.port} is not in RESNEXT_FETCH_PORTS"
        )
        assert other.requests == []


# X-Robots-Tag


def tagged(*lines: str) -> bytes:
    head = "".join(f"X-Robots-Tag: {line}\r\n" for line in lines)
    return f"HTTP/1.1 200 OK\r\n{head}Content-Length: 9\r\n\r\na picture".encode()


@pytest.mark.parametrize(
    "lines",
    [("noai",), ("all", "NoIndex"), ("nofollow, noimageai",), ("otherbot: none", "noimageindex")],
)
def test_robots_tags_are_respected_unless_configured_otherwise(
    lines: tuple[str, ...],
) -> None:
    with serving(saying(tagged(*lines))) as server:
        failure = make_fetcher().failure(f"{server.address}/a.jpg")
        assert (failure.code, failure.retried) == ("robots", False)
        assert failure.detail.removeprefix("X-Robots-Tag: ") in lines[-1].lower()
        ignoring = make_fetcher(robots="ignore")
        assert ignoring.body(f"{server.address}/a.jpg") == b"a picture"


def test_robots_tags_for_other_programs_do_not_apply() -> None:
    with serving(saying(tagged("otherbot: noai, noindex", "nofollow"))) as server:
        assert make_fetcher().body(f"{server.address}/a.jpg") == b"a picture"


def test_an_error_status_takes_precedence_over_robots_tags() -> None:
    said = tagged("noindex").replace(b"200 OK", b"404 Not Found")
    with serving(saying(said)) as server:
        assert make_fetcher().failure(f"{server.address}/a.jpg").code == "http_404"
