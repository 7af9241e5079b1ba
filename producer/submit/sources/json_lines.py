"""Reads JSONL: an object or a text on each line, parsed by orjson.

orjson turns an integer of more than 64 bits into a floating-point number. As an id it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Bad, Image
from producer.submit.sources.lines import decode, whole_lines
from producer.submit.sources.records import Records

UNIT = "line"


def read_json_lines(blocks: Iterator[bytes], source: str, wanted: Wanted) -> Iterator[Image]:
    """Reads the images of a list. A line that is not JSON becomes a `Bad`.

    Raises:
        SourceError: a column is missing, the file is not UTF-8, or a line is too long.
    """
    records, first = Records(source, UNIT, wanted), 1
    for data in whole_lines(blocks, source):
        lines = data.splitlines()
        numbers = range(first, first + len(lines))
        try:
            parsed = list(map(orjson.loads, lines))
        except orjson.JSONDecodeError:
            decode(data, source, first)  # reports the place if the file is not UTF-8
            yield from _closely(lines, numbers, records, source)
        else:
            yield from records.images(parsed, first, numbers)
        first += len(lines)
    records.end()


def _closely(lines: list[bytes], numbers: range, records: Records, source: str) -> Iterator[Image]:
    parsed: list[Any] = []
    where: list[int] = []
    for line, number in zip(lines, numbers, strict=True):
        if not line.strip():
            continue
        try:
            parsed.append(orjson.loads(line))
            where.append(number)
        except orjson.JSONDecodeError as error:
            yield from records.images(parsed, where[0] if where else number, where)
            parsed, where = [], []
            reason = (
                f"invalid JSON: {error.msg}. Write an object, or a text in quotes, on each line"
            )
            yield Bad(reason, source, number, UNIT, None, line[:200].decode(errors="replace"))
    yield from records.images(parsed, where[0] if where else 0, where)
