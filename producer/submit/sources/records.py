"""Records of JSON, from JSONL or from an array, as images.

A record is an object with the columns that are wanted, or a text that is a URI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from contract.errors import SourceError
from producer.submit.sources.columns import Wanted, choose, missing
from producer.submit.sources.entry import Bad, Image, Place
from producer.submit.sources.runs import Column, Lines, in_runs

_REF_TYPES: Final = frozenset({str, int, type(None)})
# What fits into a column of 64 bits, with or without a sign.
_INTEGERS: Final = range(-(2**63), 2**64)
_NO_INTEGER: Final = "a number with a fraction or of more than 64 bits"


class Records:
    """Turns blocks of parsed records into images; remembers what the first record has decided."""

    def __init__(self, source: str, unit: str, wanted: Wanted) -> None:
        self._source = source
        self._unit = unit
        self._wanted = wanted
        self._column: Column | None = None
        self._seen_id = wanted.id_column is None
        self._names: Sequence[str] = ()

    def images(self, records: list[Any], first: int, lines: Sequence[int]) -> Iterator[Image]:
        """`lines` are those of the records; `first` is the first of them."""
        if not records:
            return
        column = self._column or self._begin(records[0], first)
        follow = len(lines) == lines[-1] - first + 1
        try:
            uris, refs = self._columns(records, column)
        except (TypeError, KeyError):
            yield from self._closely(records, column, lines)
            return
        yield from in_runs(uris, refs, column, Lines(first, None if follow else lambda: lines))

    def end(self) -> None:
        """
        Raises:
            SourceError: no record had the column of ids.
        """
        if not self._seen_id and self._column is not None:
            raise missing(
                str(self._wanted.id_column), self._names, "--id-column", Place(self._source)
            )

    def _begin(self, record: object, line: int) -> Column:
        name: str | None = None
        if isinstance(record, dict):
            self._names = list(record)
            name = choose(self._names, self._wanted, Place(self._source, line, self._unit))
        elif self._wanted:
            raise SourceError(
                f"{Place(self._source, line, self._unit)}: {_kind_of(record)}, so there are no "
                "columns for --column and --id-column. Write objects, or leave these options out."
            )
        self._column = Column(self._source, name, self._unit, self._wanted.id_column)
        return self._column

    def _columns(
        self, records: list[Any], column: Column
    ) -> tuple[list[str], list[str | None] | None]:
        """
        Raises:
            TypeError, KeyError: not all of the records are as they should be.
        """
        name, id_name = column.name, column.id_name
        uris = records if name is None else [record[name] for record in records]
        if set(map(type, uris)) != {str}:
            raise TypeError
        if id_name is None:
            return uris, None
        if not self._seen_id:
            self._seen_id = any(id_name in record for record in records)
        refs = [record.get(id_name) for record in records]
        types = set(map(type, refs))
        if not types <= _REF_TYPES:
            raise TypeError
        if int in types:
            refs = [_id_of(ref) for ref in refs]
        return uris, [ref or None for ref in refs]

    def _closely(self, records: list[Any], column: Column, lines: Sequence[int]) -> Iterator[Image]:
        for record, line in zip(records, lines, strict=True):
            reason = _why_bad(record, column)
            if reason is None:
                uris, refs = self._columns([record], column)
                yield from in_runs(uris, refs, column, Lines(line))
            else:
                shown = record.get(column.name, "") if isinstance(record, dict) else record
                shown = shown if isinstance(shown, str) else ""
                yield Bad(reason, self._source, line, self._unit, column.name, shown)


def _id_of(ref: str | int | None) -> str | None:
    if isinstance(ref, int):
        if ref not in _INTEGERS:
            raise TypeError
        return str(ref)
    return ref


def _why_bad(record: object, column: Column) -> str | None:
    if column.name is None:
        return None if isinstance(record, str) else f"{_kind_of(record)} and not a text"
    if not isinstance(record, dict):
        return f"{_kind_of(record)} and not an object"
    if column.name not in record:
        return f"no {column.name!r} in this object"
    uri = record[column.name]
    if not isinstance(uri, str):
        return f"{_kind_of(uri)} and not a text"
    ref = record.get(column.id_name) if column.id_name is not None else None
    if type(ref) not in _REF_TYPES or (isinstance(ref, int) and ref not in _INTEGERS):
        return f"the id is {_kind_of(ref)}; an id is a text or an integer of 64 bits"
    return None


def _kind_of(value: object) -> str:
    if type(value) is int:
        return "an integer" if value in _INTEGERS else _NO_INTEGER
    names = {
        dict: "an object", list: "a list", str: "a text", bool: "true or false",
        float: _NO_INTEGER, type(None): "null",
    }  # fmt: skip
    return names[type(value)]
