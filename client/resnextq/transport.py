"""Sends requests to one server, with a key and a time limit.

While the server does not answer, requests that only read are retried until the time limit. A
request that changes something is retried only if the caller says that repeating it is safe.
Redirects are not followed, because they would send the key to another server.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any, Final
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from resnextq.errors import KINDS, Error, Refused, ServerUnavailable, TimedOut

CONNECT_S: Final = 10.0
# Limit between two parts of a list that is sent, or of an answer that streams.
PART_S: Final = 120.0
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 20.0
BLOCK_BYTES: Final = 65_536
SUCCESS: Final = range(200, 300)
REDIRECTION: Final = range(300, 400)
# Statuses after which a later try can succeed.
LATER: Final = frozenset({429, 502, 503, 504})

Body = bytes | IO[bytes] | None


class Transport:
    """A connection to one server. Safe for many threads."""

    def __init__(self, url: str, key: str, *, timeout_s: float, ca_file: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Error(
                f"The server's address must begin with http:// or https:// and a host, got {url!r}."
            )
        if not key.isascii() or not key.isprintable() or not key:
            raise Error("The key is empty or not printable ASCII. Copy it again.")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "resnextq-client/0.1.0"}
        self._pool = urllib3.PoolManager(
            maxsize=16, retries=False, ca_certs=ca_file, cert_reqs="CERT_REQUIRED"
        )

    def json(  # noqa: PLR0913  (all but two are keyword-only)
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        again: bool | None = None,
        timeout_s: float | None = None,
    ) -> Any:  # noqa: ANN401  (JSON)
        """Sends a request. Returns the answer's JSON; None if the answer has no body.

        Args:
            method: HTTP method.
            path: path on the server, with its first slash.
            query: query parameters. None is left out; a list becomes several parameters.
            body: bytes, or a file that is read from its beginning.
            headers: further headers besides the key.
            again: whether the request may be repeated; by default only GET.
            timeout_s: limit including retries and waits; by default the client's.

        Raises:
            Refused: the server refuses the request.
            ServerUnavailable: the server does not answer.
            TimedOut: the server does not answer within the time limit.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        may_repeat = method == "GET" if again is None else again
        if body is not None and not isinstance(body, bytes):  # avoids chunked encoding
            headers = dict(headers or {}) | {"Content-Length": str(body.seek(0, io.SEEK_END))}
            body.seek(0)
        for wait_s in _waits():
            try:
                return self._once(method, path, query, body, headers, deadline)
            except (ServerUnavailable, Refused) as error:
                passes = not isinstance(error, Refused) or error.status in LATER
                pause_s = max(wait_s, getattr(error, "retry_after_s", 0.0))
                if not (passes and may_repeat) or time.monotonic() + pause_s > deadline:
                    raise
                time.sleep(pause_s)
                if body is not None and not isinstance(body, bytes):
                    body.seek(0)
        raise AssertionError("waits never end")

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        accept: str,
        timeout_s: float,
    ) -> Iterator[Iterator[bytes]]:
        """Streams an answer, block by block. An answer that ends early raises an error.

        Raises:
            Refused: the server refuses the request.
            ServerUnavailable: the connection ended before the answer was complete.
            TimedOut: the answer was not complete within the time limit.
        """
        deadline = time.monotonic() + timeout_s
        timeout = urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=min(PART_S, timeout_s))
        response = self._send("GET", path, query, None, {"Accept": accept}, timeout)
        try:
            if response.status != HTTPStatus.OK:
                content = b"".join(_blocks(response, deadline))
                raise _refusal(response.status, response.headers, content)
            yield _blocks(response, deadline)
        finally:
            response.close()

    def _once(  # noqa: PLR0913, PLR0917  (the arguments of `json`)
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Body,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> Any:  # noqa: ANN401
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimedOut(f"{self.url} has not answered in time.")
        # urllib3 applies the connect timeout while it sends a body, and a server may need a while
        # for each part of a list.
        connect_s = CONNECT_S
        sent: Body | Iterator[bytes] = body
        if body is not None and not isinstance(body, bytes):
            connect_s = PART_S
            sent = _parts(body, deadline)
        timeout = urllib3.Timeout(connect=min(connect_s, left_s), read=left_s)
        response = self._send(method, path, query, sent, headers or {}, timeout)
        try:
            content = b"".join(_blocks(response, deadline))
        finally:
            response.release_conn()
        if response.status not in SUCCESS:
            raise _refusal(response.status, response.headers, content)
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise Error(
                f"The answer of {self.url} is not JSON. Is it a resnext-queue server?"
            ) from error

    def _send(  # noqa: PLR0913, PLR0917  (the arguments of `json`)
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Body | Iterator[bytes],
        headers: Mapping[str, str],
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        text = urlencode(_flat(asked)) if asked else ""
        try:
            return self._pool.request(
                method,
                f"{self.url}{path}{'?' * bool(text)}{text}",
                body=body,
                headers=self._headers | dict(headers),
                timeout=timeout,
                redirect=False,
                preload_content=False,
                decode_content=True,
            )
        except HTTPError as error:
            raise _unavailable(self.url, error) from error


def _flat(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        several = value if isinstance(value, (list, tuple)) else [value]
        pairs += [(name, str(one)) for one in several]
    return pairs


def _parts(file: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Yields the parts of a list, until the deadline."""
    while part := file.read(BLOCK_BYTES):
        if time.monotonic() > deadline:
            raise TimedOut("The server has not received the whole list in time.")
        yield part


def _blocks(response: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yields blocks as they arrive, without waiting until a block is full."""
    try:
        while block := response.read1(BLOCK_BYTES):
            if time.monotonic() > deadline:
                raise TimedOut("The answer was not complete in time.")
            yield block
    except HTTPError as error:
        raise ServerUnavailable(f"The answer ended early: {error}") from error


def _refusal(status: int, headers: Mapping[str, str], content: bytes) -> Error:
    """Turns an unsuccessful answer into an error."""
    if status in REDIRECTION:
        where = headers.get("Location", "nowhere")
        return Error(f"The server redirects to {where}. Use that address instead.")
    try:
        told = json.loads(content)
        code, detail = str(told["code"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        told, code = {}, f"http_{status}"
        detail = f"The server answered with status {status}, but not like a resnext-queue server."
    kind = KINDS.get(status, Refused)
    after = headers.get("Retry-After", "")
    retry_after_s = float(after) if after.isdecimal() else 0.0
    return kind(status, code, detail, told.get("line"), told.get("column"), retry_after_s)


def _unavailable(url: str, error: HTTPError) -> ServerUnavailable:
    return ServerUnavailable(f"{url} does not answer: {error}")


def _waits() -> Iterator[float]:
    wait_s = FIRST_WAIT_S
    while True:
        yield random.uniform(0.5, 1.0) * wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
