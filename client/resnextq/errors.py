"""What can go wrong.

Error                   what was wrong, and what to do; the base of all
├── Refused             the server takes the request for wrong: `code`, `line`, `column` say why
│   ├── NotFound        no job has this id
│   ├── Forbidden       there is no such key, or it may not do this
│   └── Conflict        the job's state, or another submit with this key, forbids it for now
├── TooManyRequests     the key sends more than it may; tried again until the time was over
├── ServerUnavailable   no answer, or the server is not ready; tried again where that is safe
└── TimedOut            the time that the caller gave is over
"""

from __future__ import annotations

from dataclasses import dataclass


class Error(Exception):
    """The base of all errors of this package."""


@dataclass
class Refused(Error):
    """An answer of the server that says no."""

    status: int
    code: str
    """As the API documents it: `bad_source`, `key_conflict`, `unknown_job`, …"""
    detail: str
    line: int | None = None
    column: str | None = None
    retry_after_s: float = 0.0
    """What the server asks to be left in peace for."""

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
