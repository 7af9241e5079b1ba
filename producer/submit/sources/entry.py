"""What sources give: plain URIs in runs, other URIs one by one, and lines without a URI.

Readers make these, `producer.submit.check` decides which are accepted, and `classify` takes the
URIs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

from contract.errors import SourceError

SHOWN_CHARS: Final = 100
Values = Mapping[str, Any]
"""Other values in a URI's row, by column; see `columns.Keep`."""


class Place(NamedTuple):
    """A place in a source, for messages: file, line or row, and column."""

    source: str
    line: int = 0
    """Counted from 1. 0: no particular line."""
    unit: str = "line"
    column: str | None = None

    def __str__(self) -> str:
        parts = [shorten(self.source)]
        if self.line:
            parts.append(f"{self.unit} {self.line}")
        if self.column is not None:
            parts.append(f"column {quoted(self.column)}")
        return ", ".join(parts)

    def wrong(self, why: str) -> SourceError:
        """An error that stops a submit, with this place and the reason."""
        return SourceError(f"{self}: {why}", line=self.line or None, column=self.column)


class Entry(NamedTuple):
    """An image to submit, with its place."""

    uri: str
    ref: str | None
    """The submitter's own id of the image."""
    source: str
    line: int
    """Counted from 1. 0: the source has no lines."""
    root: Path | None = None
    """The file or folder that the user named to give this image. None: it comes from a list."""
    unit: str = "line"
    """What `line` counts: Parquet files and JSON arrays have rows."""
    column: str | None = None
    values: Values | None = None

    @property
    def place(self) -> Place:
        return Place(self.source, self.line, self.unit, self.column)


class Run(NamedTuple):
    """Plain URIs that `contract.uris.refusal` accepts without a closer look, with valid ids."""

    uris: Sequence[str]
    source: str
    line: int
    """Line of the first URI, counted from 1."""
    refs: Sequence[str | None] | None = None
    """The submitter's own ids. None: there are none."""
    lines: Callable[[], Sequence[int]] | None = None
    """The line of each URI. None: the lines are consecutive. Only messages need them."""
    unit: str = "line"
    column: str | None = None
    values: Sequence[Values] | None = None
    """Values beside each URI. None: not asked for."""

    def entries(self) -> Iterator[Entry]:
        numbers = range(self.line, self.line + len(self.uris)) if self.lines is None else None
        lines = numbers if numbers is not None else self.lines()  # type: ignore[misc]
        refs = self.refs or [None] * len(self.uris)
        values = self.values or repeat(None, len(self.uris))
        for uri, ref, line, theirs in zip(self.uris, refs, lines, values, strict=True):
            yield Entry(uri, ref, self.source, line, None, self.unit, self.column, theirs)


class Bad(NamedTuple):
    """A line or a row that gives no image."""

    reason: str
    """The same words for the same kind of fault, so that they can be counted."""
    source: str
    line: int
    unit: str = "line"
    column: str | None = None
    shown: str = ""
    """The text in place of a URI, if it helps. Results show it as the URI."""
    ref: str | None = None
    advice: str = ""
    values: Values | None = None

    @property
    def place(self) -> Place:
        return Place(self.source, self.line, self.unit, self.column)


Image = Entry | Run | Bad


def apart(images: Iterable[Image]) -> Iterator[Entry | Bad]:
    """The same images, with each URI by itself."""
    for image in images:
        if isinstance(image, Run):
            yield from image.entries()
        else:
            yield image


def shorten(text: str) -> str:
    """A value for a message: on one line and not too long."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[:SHOWN_CHARS]}…"


def quoted(text: str) -> str:
    """The same in quotes."""
    shown = shorten(text)
    mark = '"' if "'" in shown and '"' not in shown else "'"
    return f"{mark}{shown}{mark}"
