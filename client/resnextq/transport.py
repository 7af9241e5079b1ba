"""Requests to one server, with a key, within a time.

What only reads is tried again while the server does not answer, as long as the time lasts. What
changes something is tried again only where the caller says that twice is as good as once. No
redirect is followed: the key would go to whoever the server names.
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
# Between two parts of an answer that streams.
READ_S: Final = 120.0
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 20.0
BLOCK_BYTES: Final = 65_536
MOST_PROBLEM_BYTES: Final = 1_048_576
SUCCESS: Final = range(200, 300)
REDIRECTION: Final = range(300, 400)
# Answers that say: not now.
LATER: Final = frozenset({429, 502, 503, 504})

Body = bytes | IO[bytes] | None


class Transport:
    """Safe for many threads."""

    def __init__(self, url: str, key: str, *, timeout_s: float, ca_file: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Error(f"The server's address is {url!r}; it begins with http:// or https://.")
        if not key.isascii() or not key.isprintable() or not key:
            raise Error("The key is empty, or not of printable ASCII: copy it anew.")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "resnextq-client/0.1.0"}
        self._pool = urllib3.PoolManager(
            maxsize=16, retries=False, ca_certs=ca_file, cert_reqs="CERT_REQUIRED"
        )

    def json(  # noqa: PLR0913  (all but two are by keyword)
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
        """The answer's JSON; None: it has no body.

        Args:
            method: of the request.
            path: on the server, with its first slash.
            query: parameters; None is left out, and a list is sent as several.
            body: bytes, or a file that is read from its beginning.
            headers: besides the key.
            again: whether it may be sent twice; by default what only reads.
            timeout_s: for all of it, tries and waits included; by default the client's.

        Raises:
            Refused: the server says no.
            ServerUnavailable: it does not answer.
            TimedOut: not within the time.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        may_repeat = method == "GET" if again is None else again
        if body is not None and not isinstance(body, bytes):  # known, it is not sent in chunks
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
        self, path: str, *, query: Mapping[str, Any] | None = None, accept: str
    ) -> Iterator[Iterator[bytes]]:
        """An answer, block by block. An answer that ends early is an error and no end.

        Raises:
            Refused: the server says no.
            ServerUnavailable: the connection has ended before the answer did.
        """
        timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        response = self._send("GET", path, query, None, {"Accept": accept}, timeout)
        try:
            if response.status != HTTPStatus.OK:
                raise _refusal(response.status, response.headers, response.read(MOST_PROBLEM_BYTES))
            yield _blocks(response)
        finally:
            response.close()

    def _once(  # noqa: PLR0913, PLR0917  (of `json`)
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
        timeout = urllib3.Timeout(connect=min(CONNECT_S, left_s), read=left_s)
        response = self._send(method, path, query, body, headers or {}, timeout)
        try:
            content = _content(response, deadline)
        finally:
            response.release_conn()
        if response.status not in SUCCESS:
            raise _refusal(response.status, response.headers, content)
        return json.loads(content) if content else None

    def _send(  # noqa: PLR0913, PLR0917  (of `json`)
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Body,
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


def _content(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    parts = []
    for block in _blocks(response):
        parts.append(block)
        if time.monotonic() > deadline:
            raise TimedOut("The answer has not come to its end in time.")
    return b"".join(parts)


def _blocks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """As they come: a block is not waited for until it is full."""
    try:
        while block := response.read1(BLOCK_BYTES):
            yield block
    except HTTPError as error:
        raise ServerUnavailable(f"The answer has ended early: {error}") from error


def _refusal(status: int, headers: Mapping[str, str], content: bytes) -> Error:
    """An answer that is no success, as an error."""
    if status in REDIRECTION:
        where = headers.get("Location", "nowhere")
        return Error(f"The server sends its clients to {where}: use that address yourself.")
    try:
        told = json.loads(content)
        code, detail = str(told["code"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        told, code = {}, f"http_{status}"
        detail = f"The server answers with the status {status}, and not as a resnext-queue does."
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
