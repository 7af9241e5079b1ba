"""Reads a JSON file that is one array, of objects or texts, element by element.

The array may be larger than memory, so a window of text moves over it. orjson parses only whole
documents. So the text up to a comma that follows an object or a text is put in brackets and parsed.
If that fails, because the comma was inside an element, the standard library's scanner takes one
element after the other.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from contract.errors import SourceError
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Image, Place
from producer.submit.sources.records import Records

MAX_ELEMENT_CHARS: Final = 1_048_576
UNIT: Final = "row"
# Number of commas to try, from the last one on: nested objects contain such commas, too.
_TRIES: Final = 3
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_scan = json.JSONDecoder().raw_decode


def read_json_array(blocks: Iterator[bytes], source: str, wanted: Wanted) -> Iterator[Image]:
    """Reads the images of an array.

    Raises:
        SourceError: the file is not a JSON array in UTF-8, an element is too long, or a column is
            missing.
    """
    records, window = Records(source, UNIT, wanted), _Window(blocks, source)
    for first, elements in window.elements():
        yield from records.images(elements, first, range(first, first + len(elements)))
    records.end()


class _Window:
    """The text that is not parsed yet: some hundred kilobytes, plus the longest element."""

    def __init__(self, blocks: Iterator[bytes], source: str) -> None:
        self._blocks = blocks
        self._source = source
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0
        self._row = 1
        self._whole = False
        self._odd_byte: int | None = None
        self._fault: Exception = ValueError("it is empty")

    def elements(self) -> Iterator[tuple[int, list[Any]]]:
        """The complete elements of each window, with the row of the first."""
        self._expect("[")
        if self._next() == "]":
            self._at += 1
            self._check_end()
            return
        ended = False
        while not ended:
            found: list[Any] = []
            first = self._row
            self._take_many(found)
            ended = self._take(found)
            if found:
                yield first, found
            if not ended:
                self._read_on()
        self._check_end()

    def _take_many(self, found: list[Any]) -> None:
        """Takes all elements up to a comma between elements, if it finds one soon.

        If the text in added brackets is valid JSON, it has the same elements as in the file,
        because both are read alike up to the comma.
        """
        text, at, end = self._text, self._at, len(self._text)
        for _ in range(_TRIES):
            end = max(text.rfind("},", at, end), text.rfind('",', at, end))
            if end < 0:
                return
            try:
                found += orjson.loads(f"[{text[at : end + 1]}]")
            except orjson.JSONDecodeError:
                continue
            self._at = end + 2
            self._row += len(found)
            return

    def _take(self, found: list[Any]) -> bool:
        """Takes complete elements, each with the comma or bracket after it. Returns whether the
        array ends.

        An incomplete element stays in the window.
        """
        text, at, space = self._text, self._at, _SPACE.match
        while True:
            begin = space(text, at).end()  # type: ignore[union-attr]  # it matches anything
            try:
                value, end = _scan(text, begin)
            except (ValueError, RecursionError) as error:
                self._fault = error
                break
            end = space(text, end).end()  # type: ignore[union-attr]
            behind = text[end : end + 1]
            if behind not in (",", "]"):
                self._fault = ValueError("a comma or ] is missing after it")
                break
            found.append(value)
            self._row += 1
            at = end + 1
            if behind == "]":
                self._at = at
                return True
        self._at = at
        if self._whole or len(text) - at > MAX_ELEMENT_CHARS:
            raise self._wrong(self._fault, text[at:])
        return False

    def _read_on(self) -> None:
        if self._odd_byte is not None:
            raise self._place.wrong(
                f"not UTF-8 (byte 0x{self._odd_byte:02X}). "
                "If the file is in Latin-1 or Windows-1252, convert it: "
                "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
            )
        block = next(self._blocks, b"")
        self._whole = not block
        try:
            more = self._decode(block, not block)
        except UnicodeDecodeError as error:  # reported after the rows before it are taken
            self._whole, self._odd_byte = False, error.object[error.start]
            more = error.object[: error.start].decode()
        self._text, self._at = self._text[self._at :] + more, 0

    def _next(self) -> str:
        """The next character that is not blank. "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._whole:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _expect(self, char: str) -> None:
        if self._next() == char:
            self._at += 1

    def _check_end(self) -> None:
        if self._next():
            raise self._place.wrong(
                "there is more text after the end of the array. A JSON file is one array. Write "
                "JSONL for one record per line."
            )

    @property
    def _place(self) -> Place:
        return Place(self._source, self._row, UNIT)

    def _wrong(self, error: Exception, element: str) -> SourceError:
        if not element.strip():
            return self._place.wrong("the file ends before its array does, so it is incomplete.")
        if not self._whole:
            return self._place.wrong(
                f"no complete element within {MAX_ELEMENT_CHARS:,} characters. A row is an object "
                "or a text."
            )
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        return self._place.wrong(f"invalid JSON: {reason}.")
