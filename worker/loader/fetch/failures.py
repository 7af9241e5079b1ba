"""Why a fetch failed: urllib3's and the system's errors become the failure that is recorded."""

from __future__ import annotations

import ssl
from http.client import HTTPException, IncompleteRead, InvalidURL
from typing import Final

from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    InvalidHeader,
    LocationValueError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from contract.failure import Failure
from worker.loader.fetch.response import UnusableResponse

_INTERRUPTED: Final = Failure("connect", "the connection broke off")
# By urllib3's exception or its cause; the first line that fits counts.
FAILURES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Failure], ...]] = (
    (ssl.SSLEOFError, _INTERRUPTED),
    (SSLError, Failure("tls", "the certificate or the handshake is not valid")),
    ((HTTPTimeoutError, TimeoutError), Failure("timeout", "no answer")),
    ((LocationValueError, InvalidURL), Failure("bad_uri", "not to be read as an address")),
    ((IncompleteRead, ConnectionError), _INTERRUPTED),
    (
        (DecodeError, InvalidHeader, HTTPException),
        Failure("bad_response", "no HTTP, or not as its headers say"),
    ),
    ((HTTPError, OSError), _INTERRUPTED),
)


class FetchError(Exception):
    """The image could not be fetched; `failure` says why."""

    def __init__(self, code: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(code, detail)
        self.failure = Failure(code, detail, retry_after_s)


def as_fetch_error(error: Exception, *, redirected: bool) -> FetchError:
    """Says whether a redirect led there, and names no host: it may be inside our network."""
    failure = _failure_of(error)
    where = "redirect: " if redirected else ""
    return FetchError(failure.code, where + failure.detail, failure.retry_after_s)


def _failure_of(error: Exception) -> Failure:
    """The failure of this error. Its detail says nothing of our own network."""
    if isinstance(error, FetchError | UnusableResponse):
        return error.failure
    cause = error.args[-1] if isinstance(error, ProtocolError | SSLError) else error
    for kinds, failure in FAILURES:
        if isinstance(error, kinds) or isinstance(cause, kinds):
            return failure
    return Failure("bad_uri", type(error).__name__)
