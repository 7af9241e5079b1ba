"""Each fetch from an endless, lying or untrusted server ends soon."""

from __future__ import annotations

import gzip
import itertools
import socket
import ssl
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from contract.failure import Failure
from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.spec.catalogue import find_spec
from tests.fetching import Fetching
from tests.servers.raw import Answer, saying, serving
from tests.servers.tls import AUTHORITY, tls_of
from worker.loader.fetch.certificates import VARIABLES
from worker.loader.fetch.head import MOST_HEAD_BYTES

LIMIT_BYTES = 100_000
# How much an endless answer may send: our limits, and the kernel buffers at both ends.
BUFFERED_BYTES = 16 * 2**20
FOR_EVER_S = 3600.0
# The output of `openssl x509 -hash` for the authority.
AUTHORITY_HASH = "774b5dcc.0"
OK = b"HTTP/1.1 200 OK\r\n"


def make_fetcher(**limits: Any) -> Fetching:
    """A fetcher without a practical deadline, unless a test sets one."""
    usual = {"fetch_allow": ("127.0.0.1",), "max_image_bytes": LIMIT_BYTES}
    return Fetching(**usual | {"fetch_deadline_s": FOR_EVER_S} | limits)


def fetch(answer: Answer, tls: ssl.SSLContext | None = None, **limits: Any) -> bytes | Failure:
    with serving(answer, tls) as server:
        came = make_fetcher(**limits).fetch(f"{server.address}/a.jpg")
    return came if isinstance(came, Failure) else came.body


def code_of(answer: Answer, tls: ssl.SSLContext | None = None, **limits: Any) -> str:
    failure = fetch(answer, tls, **limits)
    assert isinstance(failure, Failure), failure
    return failure.code


class Endless:
    """Sends its beginning and then the same piece for ever, and counts the bytes."""

    def __init__(self, piece: bytes, beginning: bytes = b"") -> None:
        self.said_bytes = 0
        self._piece = piece
        self._beginning = beginning

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self._beginning)
        many = self._piece * max(1, 65536 // len(self._piece))
        with suppress(OSError):
            while True:
                connection.sendall(many)
                self.said_bytes += len(many)


# Headers


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("endless", "code"),
    [
        (Endless(b"a"), "bad_response"),
        (Endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "bad_response"),
        (Endless(b"Some: words\r\n", b"HTTP/1.1 100 Continue\r\n"), "bad_response"),
        (Endless(b"a", OK + b"Name: "), "bad_response"),
        (Endless(b"Some: words\r\n", OK), "bad_response"),
        (Endless(b"Name: " + b"a" * 60_000 + b"\r\n", OK), "bad_response"),
        (Endless(b"\0" * 1000, OK + b"\r\n"), "too_large"),
        (Endless(b"1\r\na\r\n", CHUNKED), "too_large"),
        (Endless(b"1;" + b"a" * 60_000 + b"\r\na\r\n", CHUNKED), "too_large"),
        (Endless(b"Some: words\r\n", CHUNKED + b"1\r\na\r\n0\r\n"), "too_large"),
        (Endless(b"f", CHUNKED), "bad_response"),
    ],
    ids=[
        *("status", "interim answers", "interim headers", "one header", "many headers"),
        *("long headers", "body", "chunks", "chunk extensions", "trailers", "chunk length"),
    ],
)
def test_an_endless_part_of_an_answer_is_cut_off_early(endless: Endless, code: str) -> None:
    assert code_of(endless) == code
    assert endless.said_bytes < BUFFERED_BYTES


def test_headers_of_exactly_the_limit_are_accepted() -> None:
    long = b"Name: " + b"a" * 60_000 + b"\r\n"
    head = OK + long * 4 + b"Content-Length: 1\r\n"
    assert len(head) < MOST_HEAD_BYTES
    assert fetch(saying(head, b"\r\na")) == b"a"
    assert code_of(saying(head, long, b"\r\na")) == "bad_response"


@pytest.mark.parametrize("digits", [19, 4301])
def test_a_length_with_thousands_of_digits_is_too_large(digits: int) -> None:
    assert code_of(saying(OK + b"Content-Length: " + b"9" * digits + b"\r\n\r\na")) == "too_large"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        OK + b"Name: a\r\n" * 101 + b"\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
    ids=["another protocol", "no status", "too low", "many headers", "two lengths"],
)
def test_an_answer_that_is_not_http_is_not_retried(said: bytes) -> None:
    failure = fetch(saying(said))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retried) == ("bad_response", False)


def test_a_server_that_hangs_up_is_retried() -> None:
    for said in (b"", OK, OK + b"Content-Length: 5\r\n\r\nabc"):
        failure = fetch(saying(said))
        assert isinstance(failure, Failure) or failure == b""
        if isinstance(failure, Failure):
            assert (failure.code, failure.retried) == ("connect", True)


def test_the_reason_of_a_status_is_ours_and_not_the_servers() -> None:
    failure = fetch(saying(b"HTTP/1.1 404 Gone\x1b[2Jaway\r\nContent-Length: 0\r\n\r\n"))
    assert failure == Failure("http_404", "Not Found")
    failure = fetch(saying(b"HTTP/1.1 599 =1+1\r\nContent-Length: 0\r\n\r\n"))
    assert failure == Failure("http_599", "not a status that HTTP defines")


# Encodings


def packed(encoding: str, body: bytes) -> Answer:
    head = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return saying(OK, head.encode(), body)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("X-GZip", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_body_compressed_once_is_unpacked_up_to_the_limit(
    encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    assert fetch(packed(encoding, pack(b"a" * LIMIT_BYTES))) == b"a" * LIMIT_BYTES
    assert code_of(packed(encoding, pack(b"a" * (LIMIT_BYTES + 1)))) == "too_large"
    bomb = pack(bytes(20_000_000))
    assert len(bomb) < LIMIT_BYTES
    assert code_of(packed(encoding, bomb)) == "too_large"
    assert code_of(packed(encoding, b"no such thing" * 100)) == "bad_response"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br", "compress"])
def test_any_other_compression_is_refused(encoding: str) -> None:
    body = gzip.compress(gzip.compress(b"a picture"))
    assert code_of(packed(encoding, body)) == "bad_response"


def test_requests_accept_no_compression() -> None:
    with serving(saying(OK, b"Content-Length: 1\r\n\r\na")) as server:
        make_fetcher().fetch(f"{server.address}/a.jpg")
        assert b"accept-encoding: identity\r\n" in server.requests[0].lower()


# What a body is


def content(kind: str, body: bytes) -> Answer:
    head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return saying(OK, head.encode(), body)


def test_the_bytes_and_not_the_content_type_decide_the_format() -> None:
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    preprocessing = find_spec("resnext_tiny_imagenet").preprocessing
    for kind in ("text/html", "image/jpeg", "application/octet-stream", "nonsense"):
        body = fetch(content(kind, picture.getvalue()))
        assert isinstance(body, bytes)
        assert decode(body, limits=DecodeLimits(), preprocessing=preprocessing).format == "PNG"
    page = fetch(content("image/png", b"<html>a page</html>"))
    assert isinstance(page, bytes)
    with pytest.raises(DecodeError) as failed:
        decode(page, limits=DecodeLimits(), preprocessing=preprocessing)
    assert failed.value.code == "not_an_image"


# The deadline


def drip(beginning: bytes) -> Answer:
    """An answer of a byte now and then, so that no socket timeout ever expires."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        ended = threading.Event()
        while not ended.wait(0.02):
            connection.sendall(b"a")

    return answer


def hang(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        hang,
        drip(b"HTTP/1.1 200 "),
        drip(OK + b"Name: "),
        drip(OK + b"\r\n"),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"),
    ],
    ids=["nothing comes", "status", "headers", "body", "chunk"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_slow_or_hanging_answer_ends_at_the_deadline(
    scheme: str, answer: Answer, monkeypatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(AUTHORITY))
    tls = tls_of("good") if scheme == "https" else None
    assert code_of(answer, tls, fetch_deadline_s=0.3) == "timeout"


def test_a_tls_handshake_that_hangs_ends_at_the_deadline() -> None:
    with serving(hang) as server:
        failure = make_fetcher(fetch_deadline_s=0.3).failure(f"https://127.0.0.1:{server.port}/")
    assert failure.code == "timeout"


def test_redirects_share_one_deadline() -> None:
    """Each redirect is fast enough by itself."""
    numbers = itertools.count()

    def answer(connection: socket.socket) -> None:
        threading.Event().wait(0.1)
        head = f"HTTP/1.1 302 Found\r\nLocation: /{next(numbers)}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())

    assert code_of(answer, fetch_deadline_s=0.35, max_redirects=30) == "timeout"
    assert 1 <= next(numbers) <= 5


def test_an_unanswered_connection_ends_at_the_deadline() -> None:
    """A listener with a full queue drops new connections."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in (first, second):
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        failure = make_fetcher(fetch_deadline_s=0.3).failure(
            f"http://127.0.0.1:{listener.getsockname()[1]}/"
        )
    assert failure.code == "timeout"


# TLS


PICTURE = saying(OK, b"Content-Length: 9\r\n\r\na picture")


def test_a_server_with_a_valid_certificate_is_fetched_from(monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(AUTHORITY))
    assert fetch(PICTURE, tls_of("good")) == b"a picture"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_named_in_the_environment_is_trusted(variable: str, monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(AUTHORITY))
    assert fetch(PICTURE, tls_of("good")) == b"a picture"


def test_a_loader_reads_the_authorities_once(monkeypatch, tmp_path) -> None:
    """Reading them again would make each new connection ten times slower."""
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(AUTHORITY.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    fetcher = make_fetcher()
    for _ in range(2):
        with serving(PICTURE, tls_of("good")) as server:
            assert fetcher.body(f"{server.address}/a.jpg") == b"a picture"
        bundle.unlink(missing_ok=True)


def test_only_the_authorities_in_a_folder_are_trusted(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert code_of(PICTURE, tls_of("good")) == "tls"
    (tmp_path / AUTHORITY_HASH).symlink_to(AUTHORITY)
    assert fetch(PICTURE, tls_of("good")) == b"a picture"


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("self-signed", "the certificate is from an unknown authority"),
        ("other-host", "the certificate is for another host"),
        ("expired", "the certificate has expired"),
    ],
)
def test_a_server_without_a_valid_certificate_gets_no_request(
    name: str, detail: str, monkeypatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(AUTHORITY))
    with serving(PICTURE, tls_of(name)) as server:
        assert make_fetcher().failure(f"{server.address}/a.jpg") == Failure("tls", detail)
    assert not any(server.requests)


def test_an_unconfigured_authority_is_not_trusted() -> None:
    failure = fetch(PICTURE, tls_of("good"))
    assert failure == Failure("tls", "the certificate is from an unknown authority")


def test_a_server_that_hangs_up_in_the_handshake_is_retried() -> None:
    with serving(lambda _: None) as server:
        failure = make_fetcher().failure(f"https://127.0.0.1:{server.port}/")
    assert failure.code == "connect"


def test_a_server_that_does_not_speak_tls_is_reported() -> None:
    no_tls = saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with serving(no_tls) as server:
        failure = make_fetcher().failure(f"https://127.0.0.1:{server.port}/")
    assert failure.code == "tls"
