"""Fetches images from object stores (S3 and Google) in helper threads of a loader.

`worker.loader.fetch.fetcher` calls this for stores that `RESNEXT_OBJECT_STORES` enables. obstore,
an extra, makes the requests (`contract.objects`). (fsspec's s3fs and gcsfs would add an event loop
and much more memory to each loader, and need another request for an object's size.) The server is
named in the operator's settings and never in a URI, so it may have a private address. An error's
detail repeats only the status of an answer.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contract.failure import Failure
from contract.objects import ANONYMOUS, ObjectName, Stores, parse_object, status_of
from worker.loader.fetch import descriptors
from worker.loader.fetch.failures import NO_DESCRIPTORS, failure_of_status
from worker.loader.fetch.settings import FetchSettings

if TYPE_CHECKING:  # a loader starts without pydantic, and most need no object store
    from contract.settings import Settings

PIECE_BYTES: Final = 256 * 1024
# The variables that a loader needs to sign requests. It gets few others.
VARIABLES: Final = {
    "s3": frozenset(
        {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
         "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
         "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
         "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}
    ),
    "gs": frozenset({"GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT_KEY"}),
}  # fmt: skip
# The variables that name a file. New tokens may appear beside the old ones.
KEY_FILES: Final = ("GOOGLE_APPLICATION_CREDENTIALS",)
TOKEN_FILES: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")


def environment(settings: Settings) -> dict[str, str]:
    """Returns the variables that loaders get for the enabled stores.

    Raises:
        UsageError: a store is enabled, but the package that fetches from it is not installed.
    """
    Stores.of(settings).check_installed()
    if settings.object_store_access == ANONYMOUS:
        return {}
    wanted = frozenset[str]().union(*(VARIABLES[scheme] for scheme in settings.object_stores))
    return {name: value for name, value in os.environ.items() if name in wanted and value}


def credential_files(variables: dict[str, str]) -> list[Path]:
    """The files that loaders must read to use these variables."""
    keys = [Path(variables[name]) for name in KEY_FILES if name in variables]
    return keys + [Path(variables[name]).parent for name in TOKEN_FILES if name in variables]


class ObjectStores:
    """Fetches for all threads of a loader. Keeps connections for each bucket."""

    def __init__(self, settings: FetchSettings) -> None:
        stores = Stores.of(settings, tries=1)  # the queue retries, not the loader
        self._max_bytes = settings.max_image_bytes
        self._store = cache(stores.open)

    def fetch(self, uri: str) -> bytes | Failure:
        """Fetches an object. May exceed the deadline a little if asking for credentials hangs."""
        name = parse_object(uri)
        try:
            return self._get(name)
        except Exception as error:  # noqa: BLE001  (only its text shows the kind)
            return _explain(error)

    def _get(self, name: ObjectName) -> bytes | Failure:
        import obstore  # noqa: PLC0415  (an extra)

        limit = self._max_bytes
        answer = obstore.get(self._store(name.scheme, name.bucket), name.key)
        size = answer.meta["size"]
        if size > limit:
            return Failure("too_large", f"{size} bytes; at most {limit} are permitted")
        body = bytearray()
        for piece in answer.stream(PIECE_BYTES):
            body += piece
            if len(body) > limit:  # the server's size may be wrong
                return Failure("too_large", f"more than {limit} bytes")
        return bytes(body)


def _explain(error: Exception) -> Failure:
    """Finds the failure in the error's text. Most errors show it nowhere else."""
    status = status_of(error)
    if status is not None:
        return _as_failure(status)
    if not descriptors.are_left():  # the text does not mention this
        return NO_DESCRIPTORS
    words = str(error)
    if "Timeout" in words or "TimedOut" in words:
        return Failure("timeout", "the object store did not answer in time")
    if isinstance(error, ValueError):
        return Failure("bad_uri", "the object store accepts no such key")
    if "Received redirect" in words:
        return Failure("http_301", "the bucket is in another region")
    return Failure("connect", "the object store cannot be reached, or there are no credentials")


def _as_failure(status: int) -> Failure:
    failure = failure_of_status(status)
    return replace(failure, detail=f"{failure.detail}, says the object store")
