"""Reasons why a fetch failed. The texts reveal nothing about our network or the server's answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from contract.failure import Failure

NO_DESCRIPTORS: Final = Failure("timeout", "the loader had no descriptors left for it")
NO_MEMORY: Final = Failure("timeout", "the loader had no memory left for it")
TOO_LATE: Final = Failure("timeout", "the deadline has passed")
NO_ADDRESS: Final = Failure("dns", "the host's name has no address")
BLOCKED_ADDRESS: Final = Failure("blocked_address", "the host has no public address")
BAD_URI: Final = Failure("bad_uri", "not a valid address")
BAD_RESPONSE: Final = Failure("bad_response", "not HTTP, or it contradicts its own headers")
INTERRUPTED: Final = Failure("connect", "the connection was interrupted")


class FetchError(Exception):
    """The image could not be fetched. `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def failure_of_status(status: int, retry_after_s: float | None = None) -> Failure:
    """Returns the failure for a status, with our own text: the server's may be anything."""
    known = {one.value: one.phrase for one in HTTPStatus}
    phrase = known.get(status, "not a status that HTTP defines")
    return Failure(f"http_{status}", phrase, retry_after_s)


def too_large(most_bytes: int) -> Failure:
    return Failure("too_large", f"more than {most_bytes} bytes")
