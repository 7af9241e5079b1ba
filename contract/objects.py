"""URIs of object stores: which ones there are, what such a URI names, and how they are opened.

`contract.uris` asks here, at submit and in the worker alike; `worker.loader.fetch.object_store`
fetches pictures, and `producer.submit.sources.buckets` lists prefixes and reads lists. obstore, an
extra, makes the requests: it is a binding of Apache Arrow's `object_store`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import unquote

from contract.errors import UsageError
from contract.failure import Failure

if TYPE_CHECKING:
    from obstore.store import GCSStore, S3Store

EXTRAS: Final = {"s3": "s3", "gs": "gcs"}
"""By scheme: the extra of this package that fetches from it."""
_STATUS: Final = re.compile(r"status code: (\d{3})\b")
# S3 takes 3 to 63 characters, Google 222 where there are dots.
ANONYMOUS: Final = "anonymous"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclass(frozen=True)
class ObjectName:
    scheme: str
    bucket: str
    key: str
    """As the store has it; in the URI with `%20` and the like."""


def is_object(uri: str) -> bool:
    return uri.partition(":")[0].lower() in EXTRAS


def refusal_of_object(uri: str, enabled: Collection[str]) -> Failure | None:
    """Why this URI of an object store is not taken, or None if it is."""
    scheme = uri.partition(":")[0].lower()
    if scheme not in enabled:
        return Failure("blocked_scheme", f"{scheme}: is not enabled by RESNEXT_OBJECT_STORES")
    try:
        parse_object(uri)
    except ValueError as error:
        return Failure("bad_uri", str(error))
    return None


def parse_object(uri: str) -> ObjectName:
    """
    Raises:
        ValueError: it names no bucket or no object, or one that other programs would misread.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("no name of a bucket; write s3://bucket/key")
    if "?" in path or "#" in path:
        raise ValueError("a key has ? and # as %3F and %23")
    key = unquote(path, errors="strict")
    if not key.isprintable() or {"", ".", ".."} & set(key.split("/")):
        raise ValueError("a key has parts between its slashes, neither . nor .., and no controls")
    return ObjectName(scheme.lower(), bucket, key)


def status_of(error: Exception) -> int | None:
    """The status of the answer behind an error of obstore; most errors tell it in words alone."""
    if isinstance(error, FileNotFoundError):
        return HTTPStatus.NOT_FOUND
    found = _STATUS.search(str(error))
    return None if found is None else int(found[1])


class StoreSettings(Protocol):
    """The settings of these names."""

    @property
    def object_stores(self) -> tuple[str, ...]: ...
    @property
    def object_store_access(self) -> str: ...
    @property
    def s3_endpoint(self) -> str | None: ...
    @property
    def gcs_endpoint(self) -> str | None: ...
    @property
    def fetch_deadline_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Stores:
    """How object stores are reached, as the settings of the same names say."""

    enabled: tuple[str, ...] = ()
    access: str = "credentials"
    s3_endpoint: str | None = None
    gcs_endpoint: str | None = None
    timeout_s: float = 20.0
    """Of a request, and of a connection."""
    tries: int = 3

    @classmethod
    def of(cls, settings: StoreSettings, *, tries: int = 3) -> Self:
        return cls(
            enabled=settings.object_stores,
            access=settings.object_store_access,
            s3_endpoint=settings.s3_endpoint,
            gcs_endpoint=settings.gcs_endpoint,
            timeout_s=settings.fetch_deadline_s,
            tries=tries,
        )

    def check_installed(self) -> None:
        """
        Raises:
            UsageError: a store is enabled, and what asks it is not installed.
        """
        for scheme in self.enabled:
            if find_spec("obstore") is None:
                raise UsageError(
                    f"RESNEXT_OBJECT_STORES enables {scheme}, which is not installed. "
                    f"pip install 'resnext-queue[{EXTRAS[scheme]}]'"
                )

    def open(self, scheme: str, bucket: str) -> S3Store | GCSStore:
        """A bucket, by its store's scheme; asks nothing yet."""
        from obstore.store import GCSStore, S3Store  # noqa: PLC0415  (an extra)

        endpoint = self.s3_endpoint if scheme == "s3" else self.gcs_endpoint
        timeout = timedelta(seconds=self.timeout_s)
        options: dict[str, Any] = {
            "client_options": {
                "timeout": timeout,
                "connect_timeout": timeout,
                "allow_http": endpoint is not None and endpoint.startswith("http:"),
            },
            "retry_config": {"max_retries": self.tries - 1, "retry_timeout": self.tries * timeout},
        }
        if self.access == ANONYMOUS:
            options["skip_signature"] = True
        if scheme == "s3":
            return S3Store(bucket, **options | ({"endpoint": endpoint} if endpoint else {}))
        return GCSStore(bucket, **options | ({"base_url": endpoint} if endpoint else {}))
