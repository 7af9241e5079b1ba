"""What a source gives: plain URIs in runs, other URIs one by one, and lines without a URI.

Readers make these, `producer.submit.check` decides about them, and `classify` takes the URIs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

SHOWN_CHARS: Final = 100


class Place(NamedTuple):
    """Where something stands, for messages: file, line or row, and column."""

    source: str
    line: int = 0
    """From 1; 0 where it is no certain one."""
    unit: str = "line"
    column: str | None = None

    def __str__(self) -> str:
        parts = [shorten(self.source)]
        if self.line:
            parts.append(f"{self.unit} {self.line}")
        if self.column is not None:
            parts.append(f"column {shorten(self.column)!r}")
        return ", ".join(parts)


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
    unit: str = "line"
    """What `line` counts: a file of Parquet or an array in JSON has rows."""
    column: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.source, self.line, self.unit, self.column)


class Run(NamedTuple):
    """URIs that `contract.uris.refusal` takes at a glance, with ids that fit."""

    uris: Sequence[str]
    source: str
    line: int
    """Of the first one; from 1."""
    refs: Sequence[str | None] | None = None
    """The submitter's own ids; None: there are none."""
    lines: Callable[[], Sequence[int]] | None = None
    """The line of each one; None: they follow each other. Only messages need it."""
    unit: str = "line"
    column: str | None = None

    def entries(self) -> Iterator[Entry]:
        numbers = range(self.line, self.line + len(self.uris)) if self.lines is None else None
        lines = numbers if numbers is not None else self.lines()  # type: ignore[misc]
        refs = self.refs or [None] * len(self.uris)
        for uri, ref, line in zip(self.uris, refs, lines, strict=True):
            yield Entry(uri, ref, self.source, line, None, self.unit, self.column)


class Bad(NamedTuple):
    """A line or a row that gives no image."""

    reason: str
    """The same words for the same kind of fault, so that they can be counted."""
    source: str
    line: int
    unit: str = "line"
    column: str | None = None
    shown: str = ""
    """What stands there, as far as it tells something; it stands for the URI in results."""
    ref: str | None = None
    advice: str = ""

    @property
    def place(self) -> Place:
        return Place(self.source, self.line, self.unit, self.column)


Image = Entry | Run | Bad


def apart(images: Iterable[Image]) -> Iterator[Entry | Bad]:
    """The same, each URI by itself."""
    for image in images:
        if isinstance(image, Run):
            yield from image.entries()
        else:
            yield image


def shorten(text: str) -> str:
    """A value as a message shows it: on one line, and not longer than it."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[:SHOWN_CHARS]}…"
