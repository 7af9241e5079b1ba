"""Where URIs come from: the SOURCE arguments of `submit`, read as one stream of entries.

A source is a URI, a folder of images, an image file, a text file with a URI a line, or `-`
for such lines on standard input. `read_sources` gives one `Entry` an image and reads no more
ahead than some hundred kilobytes that are there; `read_runs` gives the plain lines of a list
together. `check` lets through what workers would take and names what they would not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from contract.errors import SourceError
from contract.failure import Failure, describe
from contract.uris import (
    DEFAULT_PORTS,
    MAX_URI_CHARS,
    is_file,
    path_of,
    refusal,
    refusal_of_port,
)
from producer.submit.runs import Run, run_at

STANDARD_INPUT: Final = "-"
IMAGE_EXTENSIONS: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
# A URI of the greatest length in four-byte characters, a TAB and a long id fit.
MAX_LINE_BYTES: Final = 65_536
MAX_REF_CHARS: Final = 1_024
# So much of a list is read at once.
BLOCK_BYTES: Final = 262_144
# So much of a stretch of odd lines is looked at before plain ones are looked for again.
MAX_ODD_BYTES: Final = 16_384
# Enough to see what is wrong with a list, few enough to read.
MAX_REFUSALS: Final = 10
# How much further a list is read for more refusals, once one has decided against it.
ENTRIES_AFTER_REFUSAL: Final = 100_000
SHOWN_CHARS: Final = 100


class Entry(NamedTuple):
    """One image to submit, and where it stands."""

    uri: str
    ref: str | None
    """The submitter's own id of the image."""
    source: str
    line: int
    """From 1; 0 where the source has no lines."""
    root: Path | None = None
    """What the user named himself: the file, or the folder that it is in; None: from a list."""


def read_sources(sources: Sequence[str], standard_input: BinaryIO | None = None) -> Iterator[Entry]:
    """The images of all sources, in order; every source is looked at before the first is read.

    Raises:
        SourceError: a source is nothing that can be read, or no text.
    """
    return _apart(read_runs(sources, standard_input))


def read_runs(
    sources: Sequence[str], standard_input: BinaryIO | None = None
) -> Iterator[Entry | Run]:
    """The same images in the same order, plain lines of a list together.

    Raises:
        SourceError: as of `read_sources`.
    """
    readers = [_open_source(source, standard_input or sys.stdin.buffer) for source in sources]
    for reader in readers:
        yield from reader


def named_paths(sources: Sequence[str]) -> list[Path]:
    """Every `root` that an entry of these sources can have: the files and folders in them."""
    named = (_file_of(source) if "://" in source else _named(source) for source in sources)
    return [path.absolute() for path in named if path is not None]


def _named(source: str) -> Path | None:
    path = Path(source)
    with suppress(OSError):  # a name that no file could have, which whoever opens it says
        if path.is_dir() or path.suffix.lower() in IMAGE_EXTENSIONS:
            return path
    return None


def check(
    images: Iterable[Entry | Run],
    file_roots: Sequence[Path],
    fetch_ports: Collection[int] = (),
    object_stores: Collection[str] = (),
) -> Iterator[Entry | Run]:
    """Passes images on until one is refused; then only looks for more to report. Of a run none is,
    where the ports permit it.

    Raises:
        SourceError: it names up to ten of the refused URIs, where they stand and why.
    """
    takes_runs = not fetch_ports or set(fetch_ports).issuperset(DEFAULT_PORTS.values())
    images = iter(images) if takes_runs else _apart(images)
    roots = [root.resolve() for root in file_roots]
    for image in images:
        if not isinstance(image, Run):
            reason = _why_refused(image, roots, fetch_ports, object_stores)
            if reason is not None:
                further = _further(_apart(images), roots, fetch_ports, object_stores)
                raise _refused([_report(image, reason), *further])
        yield image


def _apart(images: Iterable[Entry | Run]) -> Iterator[Entry]:
    for image in images:
        if isinstance(image, Run):
            for line, uri in enumerate(image.uris, start=image.line):
                yield Entry(uri, None, image.source, line)
        else:
            yield image


def shorten(text: str) -> str:
    """A value as a message shows it: on one line, and not longer than it."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[:SHOWN_CHARS]}…"


def _open_source(source: str, standard_input: BinaryIO) -> Iterator[Entry | Run]:
    if source == STANDARD_INPUT:
        return _read_lines(standard_input, "standard input")
    if "://" in source:
        return iter((Entry(source, None, "argument", 0, _file_of(source)),))
    path = Path(source)
    try:
        if not source:  # which Path takes for the current folder
            raise SourceError("A source is empty: name a URI, a file or a folder.")
        if path.is_dir():
            return _walk(path, path.absolute())
        if path.is_file():
            return _open_file(path)
    except OSError:  # a name that no file could have
        pass
    raise SourceError(
        f"{shorten(source)!r} is neither a URI nor a file nor a folder. "
        "A URI begins with http://, https:// or file://."
    )


def _open_file(path: Path) -> Iterator[Entry | Run]:
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return iter((_entry_of_file(path, path.absolute()),))
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read_list(file, str(path))


def _file_of(uri: str) -> Path | None:
    try:
        return path_of(uri) if is_file(uri) else None
    except (ValueError, OSError):  # a worker that fetches it names the reason
        return None


def _entry_of_file(path: Path, root: Path) -> Entry:
    return Entry(path.absolute().as_uri(), None, str(path), 0, root)


def _walk(folder: Path, root: Path) -> Iterator[Entry]:
    """The image files below a folder, by name; links to folders are not followed."""
    try:
        with os.scandir(folder) as listing:
            names = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in listing)
    except OSError as error:
        raise _unreadable(folder, error) from error
    for name, is_folder in names:
        path = folder / name
        if is_folder:
            yield from _walk(path, root)
        elif path.suffix.lower() in IMAGE_EXTENSIONS and not _leads_to_folder(path):
            yield _entry_of_file(path, root)


def _leads_to_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that cannot be followed: the image fails by itself
        return False


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{shorten(str(path))} cannot be read: {error.strerror}.")


def _read_list(file: BinaryIO, source: str) -> Iterator[Entry | Run]:
    with file:
        yield from _read_lines(file, source)


def _read_lines(file: BinaryIO, source: str) -> Iterator[Entry | Run]:
    """`URI` or `URI <TAB> id of your own`; blank lines and those that begin with # say nothing."""
    number, odd_bytes = 1, 0
    for block in _blocks(file):
        at = 0
        while at < len(block):
            begin = at
            uris, at = run_at(block, begin)
            if uris:
                yield Run(uris, source, number)
                number += len(uris)
            # Where odd lines follow each other, more and more are taken without a look for runs.
            odd_bytes = 0 if at - begin > odd_bytes else min(2 * odd_bytes + 100, MAX_ODD_BYTES)
            end = block.find(b"\n", at + odd_bytes) + 1 or len(block)
            yield from _read_closely(block[at:end], source, number)
            number += block.count(b"\n", at, end)
            at = end


def _read_closely(lines: bytes, source: str, first: int) -> Iterator[Entry]:
    for number, text in enumerate(_decode_all(lines, source, first), start=first):
        if text and not text.startswith("#"):
            uri, _, ref = text.partition("\t")
            yield Entry(uri.rstrip(), ref.strip() or None, source, number)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, as many as there are to be had at once; of one that is too long only the
    beginning.
    """
    rest = b""
    while block := file.read1(BLOCK_BYTES):  # type: ignore[attr-defined]  # a buffered file's
        lines, end, rest = (rest + block).rpartition(b"\n")
        if end:
            yield lines + end
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        yield rest


def _decode_all(lines: bytes, source: str, first: int) -> Iterator[str]:
    """Its lines without blanks around them; at once where nothing is the matter with any."""
    apart = lines.split(b"\n")
    if first > 1 and b"\x00" not in lines and max(map(len, apart)) <= MAX_LINE_BYTES:
        with suppress(UnicodeDecodeError):
            return map(str.strip, lines.decode().split("\n"))
    return (_decode(line, source, number) for number, line in enumerate(apart, start=first))


def _decode(line: bytes, source: str, number: int) -> str:
    where = f"{source}, line {number}"
    if b"\x00" in line:
        raise SourceError(f"{where}: binary data. A list of URIs is a text file, one URI a line.")
    if len(line) > MAX_LINE_BYTES:
        raise SourceError(f"{where}: longer than {MAX_LINE_BYTES} bytes. Write one URI a line.")
    try:
        # A byte order mark is what some editors begin a UTF-8 file with.
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: byte {error.start + 1} is not UTF-8. "
            "A list of URIs is a text file in UTF-8, one URI a line."
        ) from error


def _further(
    entries: Iterator[Entry],
    roots: Sequence[Path],
    ports: Collection[int],
    object_stores: Collection[str],
) -> Iterator[str]:
    """Up to nine more reports, from a bounded piece of what follows."""
    left = MAX_REFUSALS - 1
    for entry, _ in zip(entries, range(ENTRIES_AFTER_REFUSAL), strict=False):
        reason = _why_refused(entry, roots, ports, object_stores)
        if reason is not None:
            yield _report(entry, reason)
            left -= 1
        if left == 0:
            return


def _refused(reports: list[str]) -> SourceError:
    more = "At least " if len(reports) == MAX_REFUSALS else ""
    count = f"{more}{len(reports)} URIs are" if len(reports) > 1 else "A URI is"
    return SourceError("\n".join([f"{count} refused, so nothing is submitted:", *reports]))


def _report(entry: Entry, reason: str) -> str:
    where = f"{entry.source}, line {entry.line}" if entry.line else entry.source
    return f"  {shorten(where)}: {shorten(entry.uri)}: {reason}"


def _why_refused(
    entry: Entry, roots: Sequence[Path], ports: Collection[int], object_stores: Collection[str]
) -> str | None:
    """Why a worker would not take this entry, with what to do about it."""
    is_ascii = entry.ref is None and entry.uri.isascii()  # as nearly all of them
    if not is_ascii and not (_is_storable(entry.uri) and _is_storable(entry.ref or "")):
        return "not text that UTF-8 can write, or with a NUL in it"
    if entry.ref is not None and len(entry.ref) > MAX_REF_CHARS:
        return f"an id of {len(entry.ref)} characters; at most {MAX_REF_CHARS} are taken"
    failure = refusal(entry.uri, roots, object_stores) or refusal_of_port(entry.uri, ports)
    return None if failure is None else _advise(entry.uri, failure)


def _is_storable(text: str) -> bool:
    """A text column of both databases holds it."""
    if text.isascii():
        return "\x00" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def _advise(uri: str, failure: Failure) -> str:
    if uri.startswith("/") and len(uri) <= MAX_URI_CHARS:
        return f"a path; write {shorten(Path(uri).as_uri())}"
    if uri.startswith(("./", "../", "~")):
        return "a path; write its absolute form as file:///…"
    if failure.code == "blocked_path":
        return f"{failure.detail}. {describe(failure.code).advice}"
    return failure.detail
