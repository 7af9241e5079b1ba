"""URIs of object stores: which stores exist, what a URI names, and how to open a bucket.

`contract.uris` uses this at submit and in the worker; `worker.loader.fetch.object_store`
fetches pictures, and `producer.submit.sources.buckets` lists prefixes and reads lists. The extra
obstore makes the requests; it is a Python binding of the Rust crate `object_store`.
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
"""By scheme: the extra of this package that fetches from the store."""
_STATUS: Final = re.compile(r"status code: (\d{3})\b")
ANONYMOUS: Final = "anonymous"
# S3 takes 3 to 63 characters; Google up to 222 in names with dots.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclass(frozen=True)
class ObjectName:
    scheme: str
    bucket: str
    key: str
    """The key in the store; in the URI it is percent-encoded."""


def is_object(uri: str) -> bool:
    return uri.partition(":")[0].lower() in EXTRAS


def refusal_of_object(uri: str, enabled: Collection[str]) -> Failure | None:
    """Why this URI of an object store is refused; None if it is accepted."""
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
        ValueError: the URI has no valid bucket or key, or a key that other programs misread.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("no valid bucket name; write s3://bucket/key")
    if "?" in path or "#" in path:
        raise ValueError("a ? or # in the key; write %3F or %23")
    key = unquote(path, errors="strict")
    if not key.isprintable() or {"", ".", ".."} & set(key.split("/")):
        raise ValueError("a key must have no empty part, no . or .. part and no control character")
    return ObjectName(scheme.lower(), bucket, key)


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error from obstore; most errors have it only in their text."""
    if isinstance(error, FileNotFoundError):
        return HTTPStatus.NOT_FOUND
    found = _STATUS.search(str(error))
    return None if found is None else int(found[1])


class StoreSettings(Protocol):
    """The settings that `Stores` needs."""

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
    """How to reach object stores, by the settings of the same names."""

    enabled: tuple[str, ...] = ()
    access: str = "credentials"
    s3_endpoint: str | None = None
    gcs_endpoint: str | None = None
    timeout_s: float = 20.0
    """For each request and each connection."""
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
            UsageError: a store is enabled, but its extra is not installed.
        """
        for scheme in self.enabled:
            if find_spec("obstore") is None:
                raise UsageError(
                    f"RESNEXT_OBJECT_STORES enables {scheme}, but its extra is not installed. "
                    f"Run pip install '.[{EXTRAS[scheme]}]' in the project's folder."
                )

    def open(self, scheme: str, bucket: str) -> S3Store | GCSStore:
        """Opens a bucket by its store's scheme. Sends no request yet."""
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
