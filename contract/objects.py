"""URIs of object stores: which ones there are, and what such a URI names.

`contract.uris` asks here, at submit and in the worker alike; `worker.loader.fetch.object_store`
fetches.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from contract.failure import Failure

EXTRAS: Final = {"s3": "s3", "gs": "gcs"}
"""By scheme: the extra of this package that fetches from it."""
# S3 takes 3 to 63 characters, Google 222 where there are dots.
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
