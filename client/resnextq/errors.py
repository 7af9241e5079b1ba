"""The errors of this package.

Error                   what was wrong, and what to do; the base of all errors
├── Refused             the server refuses the request: `code`, `line`, `column` say why
│   ├── NotFound        no job has this id
│   ├── Forbidden       the key does not exist, or does not permit this
│   ├── Conflict        the job's state, or another submit with this key, forbids it for now
│   └── TooManyRequests the key sends more than it may; retried until the time limit
├── ServerUnavailable   no answer, or the server is not ready; retried if that is safe
└── TimedOut            the caller's time limit has passed
"""

from __future__ import annotations

from dataclasses import dataclass


class Error(Exception):
    """The base of all errors of this package."""


@dataclass
class Refused(Error):
    """The server refuses the request."""

    status: int
    code: str
    """The API's error code: `bad_source`, `key_conflict`, `unknown_job`, …"""
    detail: str
    line: int | None = None
    column: str | None = None
    retry_after_s: float = 0.0
    """How long the server asks to wait before another request."""

    def __str__(self) -> str:
        return self.detail


class NotFound(Refused):
    pass


class Forbidden(Refused):
    pass


class Conflict(Refused):
    pass


class TooManyRequests(Refused):
    pass


class ServerUnavailable(Error):
    pass


class TimedOut(Error):
    pass


KINDS: dict[int, type[Refused]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooManyRequests,
}
