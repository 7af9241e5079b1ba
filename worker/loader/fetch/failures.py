"""Why a fetch failed, in words that say nothing of our own network or of what the server said."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from contract.failure import Failure

NO_DESCRIPTORS: Final = Failure("timeout", "the loader had no descriptors left for it")
NO_MEMORY: Final = Failure("timeout", "the loader had no memory left for it")
TOO_LATE: Final = Failure("timeout", "the deadline is over")
NO_ADDRESS: Final = Failure("dns", "the host's name has no address")
BLOCKED_ADDRESS: Final = Failure("blocked_address", "the host has no public address")
BAD_URI: Final = Failure("bad_uri", "cannot be read as an address")
BAD_RESPONSE: Final = Failure("bad_response", "no HTTP, or not as its headers say")
INTERRUPTED: Final = Failure("connect", "the connection was interrupted")


class FetchError(Exception):
    """The image could not be fetched; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def failure_of_status(status: int, retry_after_s: float | None = None) -> Failure:
    """With our own words for the status: the server's may be anything."""
    known = {one.value: one.phrase for one in HTTPStatus}
    phrase = known.get(status, "no status that HTTP defines")
    return Failure(f"http_{status}", phrase, retry_after_s)


def too_large(most_bytes: int) -> Failure:
    return Failure("too_large", f"more than {most_bytes} bytes")
