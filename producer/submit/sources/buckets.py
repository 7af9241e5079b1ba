"""Sources in object stores: the images below `s3://bucket/prefix/`, and lists stored as objects.

obstore makes the requests, with the same settings as in the loaders (`contract.objects`). A list is
read in ranges, one request each, because Parquet has its index at its end. All ranges must be of
the version that was read first. So an object that is replaced meanwhile causes an error, not a
mixture.
"""

# ruff: noqa: PLC0415  (an extra)

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote

from contract.errors import SourceError, UnavailableError
from contract.objects import Stores, is_object, parse_object, refusal_of_object, status_of
from producer.submit.sources.entry import shorten
from producer.submit.sources.left_out import NO_IMAGE, ODD_KEY, OF_MACOS, LeftOut
from producer.submit.sources.walk import is_image, is_of_macos

if TYPE_CHECKING:
    from obstore.store import GCSStore, S3Store

LIST_EXTENSIONS: Final = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
PACKED_EXTENSIONS: Final = (".gz", ".zst")
# Bytes of an object that are read at once, since a request takes some tens of milliseconds.
RANGE_BYTES: Final = 4_194_304
_KEYS_A_PAGE: Final = 1_000
_REFUSING: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_REFUSALS: Final = ("PermissionDeniedError", "UnauthenticatedError")  # names in obstore, an extra
# Characters of a key that stay the same in a URI.
_PLAIN: Final = "/!$&'()*+,;=:@"
_MAGIC: Final = frozenset("*[")


def is_listing(uri: str) -> bool:
    """Whether a URI of an object store names a prefix or a pattern, not a single object."""
    return is_object(uri) and (uri.endswith("/") or not _MAGIC.isdisjoint(uri))


def is_list(uri: str) -> bool:
    """Whether the URI names a list of URIs, judged by its extension, before any request."""
    name = uri.lower()
    for extension in PACKED_EXTENSIONS:
        name = name.removesuffix(extension)
    return is_object(uri) and name.endswith(LIST_EXTENSIONS)


def objects_below(uri: str, stores: Stores, left_out: LeftOut) -> Iterator[str]:
    """The URIs of the images below a prefix, or of the images and lists that match a pattern.

    Raises:
        SourceError: the store is not enabled, or the bucket's name is invalid.
        UnavailableError: the store refuses the request or cannot be reached.
    """
    scheme, bucket, path = _divide(uri)
    prefix, pattern = path, None
    if not _MAGIC.isdisjoint(path):
        first = min(path.find(char) for char in _MAGIC if char in path)
        prefix, pattern = path[: path.rfind("/", 0, first) + 1], path
    store = _open_store(uri, scheme, bucket, stores)
    for key in _keys(store, prefix, uri):
        if pattern is not None and not fnmatchcase(key, pattern):
            continue
        found = f"{scheme}://{bucket}/{quote(key, safe=_PLAIN)}"
        if is_of_macos(key):
            left_out.note(uri, OF_MACOS)
        elif not (is_image(key) or (pattern is not None and is_list(found))):
            left_out.note(uri, NO_IMAGE, key)
        elif refusal_of_object(found, stores.enabled) is not None:
            left_out.note(uri, ODD_KEY)
        else:
            yield found


def open_object(uri: str, stores: Stores) -> BinaryIO:
    """Opens a list in an object store. The file is seekable.

    Raises:
        SourceError: the store is not enabled, or there is no such object.
    """
    refused = refusal_of_object(uri, stores.enabled)
    if refused is not None:
        raise SourceError(f"{shorten(uri)}: {refused.detail}.")
    name = parse_object(uri)
    store = _open_store(uri, name.scheme, name.bucket, stores)
    return _Buffered(_Ranges(store, name.key, uri), RANGE_BYTES)


def _divide(uri: str) -> tuple[str, str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    return scheme.lower(), bucket, path


def _open_store(uri: str, scheme: str, bucket: str, stores: Stores) -> S3Store | GCSStore:
    refused = refusal_of_object(f"{scheme}://{bucket}/any", stores.enabled)
    if refused is not None:
        raise SourceError(f"{shorten(uri)}: {refused.detail}.")
    stores.check_installed()
    return stores.open(scheme, bucket)


def _keys(store: S3Store | GCSStore, prefix: str, uri: str) -> Iterator[str]:
    import obstore

    try:
        for page in obstore.list(store, prefix or None, chunk_size=_KEYS_A_PAGE):
            for one in page:
                yield one["path"]
    except Exception as error:
        raise _explain(error, uri, "listed") from error


class _Ranges(io.RawIOBase):
    """An object as a file that requests each part when it is read."""

    def __init__(self, store: S3Store | GCSStore, key: str, uri: str) -> None:
        import obstore

        self._store, self._key, self._uri = store, key, uri
        self._at = 0
        try:
            meta = obstore.head(store, key)
        except Exception as error:
            raise _explain(error, uri, "read") from error
        self._size: int = meta["size"]
        self._version = meta["e_tag"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (a writable buffer)
        import obstore

        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        options: Any = {"range": (self._at, end)}
        if self._version is not None:
            options["if_match"] = self._version
        try:
            data = obstore.get(self._store, self._key, options=options).bytes()
        except Exception as error:
            raise _explain(error, self._uri, "read") from error
        size = len(data)
        buffer[:size] = memoryview(data)
        self._at += size
        return size


class _Buffered(io.BufferedReader):
    """Also reads a whole range in `read1`: one request per piece would take long."""

    def read1(self, size: int = -1, /) -> bytes:
        self.peek(1)
        return super().read1(size)


def _explain(error: Exception, uri: str, done: str) -> SourceError | UnavailableError:
    where = f"{shorten(uri)} cannot be {done}: "
    status = status_of(error)
    if status == HTTPStatus.NOT_FOUND:
        return SourceError(f"{where}there is no such bucket or object. Check the name.")
    if status == HTTPStatus.PRECONDITION_FAILED or type(error).__name__ == "PreconditionError":
        return SourceError(f"{where}it was replaced while it was read. Submit it again.")
    if status in _REFUSING or type(error).__name__ in _REFUSALS:
        return UnavailableError(
            f"{where}the object store refuses access. Check the credentials in the environment "
            "(AWS_… or GOOGLE_…), or set RESNEXT_OBJECT_STORE_ACCESS=anonymous for public "
            "buckets."
        )
    answered = "" if status is None else f" (status {status})"
    return UnavailableError(
        f"{where}the object store cannot be reached{answered}, or there are no credentials. Check "
        "RESNEXT_S3_ENDPOINT or RESNEXT_GCS_ENDPOINT, and the credentials."
    )
