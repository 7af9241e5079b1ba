"""Turns what `Client.submit` takes (a file, a table, an iterable) into the body of a request."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from resnextq.errors import Error

MEMORY_BYTES: Final = 4 * 2**20
MEDIA_TYPES: Final = {
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".json": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
}
TEXT: Final = "text/plain"
PACKED: Final = (".gz", ".zst")


@contextmanager
def opened(
    images: Any,  # noqa: ANN401  (a path, an iterable or a table)
    column: str | None,
    id_column: str | None,
) -> Iterator[tuple[IO[bytes], str]]:
    """Opens the body, which can be read again from its beginning; also gives its media type.

    Raises:
        Error: `images` cannot be submitted.
    """
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        if not path.is_file():
            raise Error(
                f"{os.fspath(images)!r} is not a file. To submit URIs, pass a list: "
                "submit([uri, …])."
            )
        with path.open("rb") as file:
            yield file, media_type_of(path)
        return
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as spooled:
        for line in _lines(_pairs(images, column, id_column)):
            spooled.write(line)
        if not spooled.tell():
            raise Error("There is no image to submit: `images` is empty.")
        spooled.seek(0)
        yield cast("IO[bytes]", spooled), TEXT


def media_type_of(path: Path) -> str:
    """The media type by the file name's ending, apart from .gz and .zst; the default is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return MEDIA_TYPES.get(suffixes[-1], TEXT) if suffixes else TEXT


def _pairs(
    images: Any,  # noqa: ANN401
    column: str | None,
    id_column: str | None,
) -> Iterable[tuple[Any, Any]]:
    """URIs with ids, from a table (pandas, polars or pyarrow) or from an iterable."""
    if hasattr(images, "columns") and hasattr(images, "__getitem__"):
        names = [str(name) for name in _names(images)]
        uris = _column(images, names, column or _likely(names))
        refs = [None] * len(uris) if id_column is None else _column(images, names, id_column)
        return zip(uris, refs, strict=True)
    if column is not None or id_column is not None:
        raise Error(
            "`column` and `id_column` need a file or a table, and `images` is neither. "
            "Leave them out."
        )
    return (one if isinstance(one, tuple) else (one, None) for one in images)


def _names(table: Any) -> Iterable[Any]:  # noqa: ANN401
    return cast("Iterable[Any]", getattr(table, "column_names", None) or table.columns)


def _likely(names: list[str]) -> str:
    for name in ("uri", "url", "image_uri", "image_url"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise Error(
        "It is not clear which column has the URIs. Name it with column=…; "
        f"the columns are {', '.join(names)}."
    )


def _column(table: Any, names: list[str], name: str) -> list[Any]:  # noqa: ANN401
    if name not in names:
        raise Error(f"There is no column {name!r}; the columns are {', '.join(names)}.")
    values = table[name]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return cast("list[Any]", getattr(values, method)())
    return list(values)


def _lines(pairs: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
    """
    Raises:
        Error: a URI or an id is not text, or does not fit into a line.
    """
    for number, (uri, ref) in enumerate(pairs):
        if not isinstance(uri, str) or not uri.strip():
            raise Error(f"Image {number} has the URI {uri!r}; a URI must be non-empty text.")
        text = uri if ref is None else f"{uri}\t{ref}"
        if any(mark in text for mark in "\n\r\0") or "\t" in uri:
            raise Error(f"Image {number}: {text!r} contains a line break, TAB or NUL. Remove it.")
        try:
            yield f"{text}\n".encode()
        except UnicodeEncodeError as error:
            raise Error(f"Image {number}: {text!r} cannot be encoded as UTF-8.") from error
