"""Finds out what each SOURCE argument is, and yields its images in order.

A source is a URI, a folder of images, an image file, a list, a pattern for such files and folders,
`s3://bucket/prefix/`, or `-` for a list on standard input. `read_runs` yields the plain URIs of a
list together, `read_sources` one `Entry` per image. Both read at most some hundred kilobytes ahead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from contract.errors import SourceError
from contract.objects import Stores
from contract.uris import is_file, path_of
from producer.submit.sources import buckets, kind, opening
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Bad, Entry, Image, apart, quoted, shorten
from producer.submit.sources.json_array import read_json_array
from producer.submit.sources.json_lines import read_json_lines
from producer.submit.sources.kind import Kind
from producer.submit.sources.left_out import LeftOut
from producer.submit.sources.parquet import read_parquet
from producer.submit.sources.table import read_table
from producer.submit.sources.text import read_text
from producer.submit.sources.walk import (
    entry_of_file,
    is_image,
    is_pattern,
    matches,
    unreadable,
    walk,
    without_dots,
)

STANDARD_INPUT: Final = "-"
_IN_COLUMNS: Final[dict[Kind, Callable[[Iterator[bytes], str, Wanted], Iterator[Image]]]] = {
    Kind.TABLE: read_table,
    Kind.JSON_LINES: read_json_lines,
    Kind.JSON_ARRAY: read_json_array,
}


@dataclass(frozen=True)
class Reading:
    """How sources are read, and what was left out so far."""

    wanted: Wanted = field(default_factory=Wanted)
    stores: Stores = Stores()  # noqa: RUF009  (frozen)
    left_out: LeftOut = field(default_factory=LeftOut)


def read_runs(
    sources: Sequence[str],
    standard_input: BinaryIO | None = None,
    reading: Reading | None = None,
) -> Iterator[Image]:
    """The images of all sources, in order. Every source is looked at before the first is read.

    Raises:
        SourceError: a source cannot be read, or is not a list.
    """
    reading = reading or Reading()
    given = standard_input or sys.stdin.buffer
    return chain.from_iterable([_open_source(source, given, reading) for source in sources])


def read_sources(
    sources: Sequence[str],
    standard_input: BinaryIO | None = None,
    reading: Reading | None = None,
) -> Iterator[Entry]:
    """The images of all sources, one by one.

    Raises:
        SourceError: as in `read_runs`; or a line or row gives no image.
    """
    for image in apart(read_runs(sources, standard_input, reading)):
        if isinstance(image, Bad):
            raise image.place.wrong(f"{image.reason}.")
        yield image


def read_given(file: BinaryIO, source: str, reading: Reading) -> Iterator[Image]:
    """The images of an open list. Messages call it `source`.

    Raises:
        SourceError: it is not a list.
    """
    return _read_list(lambda: nullcontext(file), source, reading)


def named_paths(sources: Sequence[str]) -> list[Path]:
    """Every possible `root` of these sources' entries: the files and folders that they name."""
    plain = chain.from_iterable(map(_unfold, sources))
    named = (_file_of(source) if "://" in source else _named(source) for source in plain)
    return [without_dots(path).absolute() for path in named if path is not None]


def _unfold(source: str) -> Iterable[str]:
    """The files and folders that match a pattern. Any other source stays as it is."""
    if "://" in source or not is_pattern(source) or _is_there(source):
        return (source,)
    with suppress(SourceError):
        return map(str, matches(source))
    return ()


def _is_there(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _named(source: str) -> Path | None:
    path = Path(source)
    with suppress(OSError):  # an impossible file name; opening it reports the error
        if path.is_dir() or is_image(source):
            return path
    return None


def _open_source(source: str, standard_input: BinaryIO, reading: Reading) -> Iterator[Image]:
    if source == STANDARD_INPUT:
        # The caller closes it.
        return _read_list(lambda: nullcontext(standard_input), "standard input", reading)
    if "://" in source:
        return _open_uri(source, reading)
    if not source:  # Path would take it for the current folder
        raise SourceError("A source is empty. Name a URI, a file or a folder.")
    if is_pattern(source) and not _is_there(source):
        found = matches(source)
        return chain.from_iterable(_open_path(path, str(path), reading) for path in found)
    return _open_path(Path(source), source, reading)


def _open_uri(source: str, reading: Reading) -> Iterator[Image]:
    if buckets.is_listing(source):
        return _read_bucket(source, reading)
    if buckets.is_list(source):
        return _read_list(partial(buckets.open_object, source, reading.stores), source, reading)
    return iter((Entry(source, None, "argument", 0, _file_of(source)),))


def _read_bucket(source: str, reading: Reading) -> Iterator[Image]:
    for uri in buckets.objects_below(source, reading.stores, reading.left_out):
        if buckets.is_list(uri):
            open_it = partial(buckets.open_object, uri, reading.stores)
            yield from _read_list(open_it, uri, reading)
        else:
            yield Entry(uri, None, source, 0)


def _open_path(path: Path, source: str, reading: Reading) -> Iterator[Image]:
    try:
        path = without_dots(path)
        if path.is_dir():
            return walk(path, reading.left_out)
        if path.is_file():
            if is_image(path.name):
                return iter((entry_of_file(path, path.absolute()),))
            return _read_list(partial(_open_file, path), str(path), reading)
        there = path.exists()
    except OSError as error:  # an impossible name, or no permission
        raise SourceError(f"{quoted(source)} cannot be read: {error.strerror}.") from error
    if not there:
        raise SourceError(
            f"{quoted(source)} does not exist. Name a file, a folder or a URI. A URI begins with "
            "http://, https:// or file://."
        )
    raise SourceError(f"{quoted(source)} is neither a URI nor a file nor a folder.")


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def _file_of(uri: str) -> Path | None:
    try:
        return path_of(uri) if is_file(uri) else None
    except (ValueError, OSError):  # the worker that fetches the image gives the reason
        return None


def _read_list(
    open_it: Callable[[], AbstractContextManager[BinaryIO]], source: str, reading: Reading
) -> Iterator[Image]:
    """Reads a list. It is opened only now: a pattern may match more lists than a process can
    open.
    """
    with open_it() as file:
        blocks = opening.open_blocks(file, source)
        which, blocks = kind.decide(blocks, source, reading.wanted)
        if which is Kind.PARQUET:
            yield from read_parquet(_from_its_beginning(file, source), source, reading.wanted)
        elif which is Kind.TEXT:
            yield from read_text(blocks, source)
        else:
            yield from _IN_COLUMNS[which](blocks, source, reading.wanted)


def _from_its_beginning(file: BinaryIO, source: str) -> BinaryIO:
    """Rewinds a Parquet file. It is read from its end, which is impossible with a pipe."""
    if not file.seekable():
        raise SourceError(
            f"{shorten(source)} is Parquet, which cannot be read from a pipe. Name the file."
        )
    file.seek(0)
    if file.read(len(opening.PARQUET)) != opening.PARQUET:
        raise SourceError(
            f"{shorten(source)} is a compressed Parquet file. Decompress it: Parquet is "
            "compressed inside."
        )
    file.seek(0)
    return file
