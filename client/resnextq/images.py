"""What `Client.submit` takes, as the body of a request: a file, a table, or anything iterable."""

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
    """The body, which can be read again from its beginning, and its media type.

    Raises:
        Error: it is nothing that could be submitted.
    """
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        if not path.is_file():
            raise Error(
                f"{os.fspath(images)!r} is no file. A list of URIs is a list: submit([uri, …])."
            )
        with path.open("rb") as file:
            yield file, media_type_of(path)
        return
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as spooled:
        for line in _lines(_pairs(images, column, id_column)):
            spooled.write(line)
        if not spooled.tell():
            raise Error("There is no image in what was given, so nothing is submitted.")
        spooled.seek(0)
        yield cast("IO[bytes]", spooled), TEXT


def media_type_of(path: Path) -> str:
    """By the name's ending, without that of packing; what has none is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return MEDIA_TYPES.get(suffixes[-1], TEXT) if suffixes else TEXT


def _pairs(
    images: Any,  # noqa: ANN401
    column: str | None,
    id_column: str | None,
) -> Iterable[tuple[Any, Any]]:
    """URIs with ids, of a table (of pandas, polars or pyarrow) or of an iterable."""
    if hasattr(images, "columns") and hasattr(images, "__getitem__"):
        names = [str(name) for name in _names(images)]
        uris = _column(images, names, column or _likely(names))
        refs = [None] * len(uris) if id_column is None else _column(images, names, id_column)
        return zip(uris, refs, strict=True)
    if column is not None or id_column is not None:
        raise Error("`column` and `id_column` are for files and tables; here are neither.")
    return (one if isinstance(one, tuple) else (one, None) for one in images)


def _names(table: Any) -> Iterable[Any]:  # noqa: ANN401
    return cast("Iterable[Any]", getattr(table, "column_names", None) or table.columns)


def _likely(names: list[str]) -> str:
    for name in ("uri", "url", "image_uri", "image_url"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise Error(f"Which column has the URIs? Name it: column=…; there are {', '.join(names)}.")


def _column(table: Any, names: list[str], name: str) -> list[Any]:  # noqa: ANN401
    if name not in names:
        raise Error(f"There is no column {name!r}; there are {', '.join(names)}.")
    values = table[name]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return cast("list[Any]", getattr(values, method)())
    return list(values)


def _lines(pairs: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
    """
    Raises:
        Error: a URI or an id is no text, or cannot stand in a line.
    """
    for number, (uri, ref) in enumerate(pairs):
        if not isinstance(uri, str) or not uri.strip():
            raise Error(f"Image {number} has the URI {uri!r}; it is a text.")
        text = uri if ref is None else f"{uri}\t{ref}"
        if any(mark in text for mark in "\n\r\0") or "\t" in uri:
            raise Error(f"Image {number}: a line break, TAB or NUL in {text!r}.")
        try:
            yield f"{text}\n".encode()
        except UnicodeEncodeError as error:
            raise Error(f"Image {number}: {text!r} is no text that UTF-8 can write.") from error
