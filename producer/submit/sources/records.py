"""Turns JSON records, from JSONL or from an array, into images.

A record is an object with the wanted columns, or a text that is a URI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from producer.submit.sources.columns import Wanted, choose, missing
from producer.submit.sources.entry import Bad, Image, Place, Values
from producer.submit.sources.runs import Column, Lines, Rows, in_runs

_REF_TYPES: Final = frozenset({str, int, type(None)})
# Integers that fit into 64 bits, signed or unsigned.
_INTEGERS: Final = range(-(2**63), 2**64)
_NO_INTEGER: Final = "a number with a fraction or of more than 64 bits"


class Records:
    """Turns blocks of parsed records into images. The first record decides the column."""

    def __init__(self, source: str, unit: str, wanted: Wanted) -> None:
        self._source = source
        self._unit = unit
        self._wanted = wanted
        self._column: Column | None = None
        self._seen_id = wanted.id_column is None
        self._names: Sequence[str] = ()
        self._keep = wanted.keep
        self._found: dict[str, Any] = {}
        """Column names that records have had: all of them, or those that the user named."""

    def images(self, records: list[Any], first: int, lines: Sequence[int]) -> Iterator[Image]:
        """`lines` are the records' lines; `first` is the first of them."""
        if not records:
            return
        column = self._column or self._begin(records[0], first)
        follow = len(lines) == lines[-1] - first + 1
        try:
            rows = self._rows(records, column)
        except (TypeError, KeyError):
            yield from self._closely(records, column, lines)
            return
        yield from in_runs(rows, column, Lines(first, None if follow else lambda: lines))

    def end(self) -> None:
        """Checks the columns after the last record.

        Raises:
            SourceError: no record had the column of ids, or a column to keep.
        """
        if self._column is None:
            return
        at = Place(self._source)
        if not self._seen_id:
            raise missing(str(self._wanted.id_column), self._names, "--id-column", at)
        if self._keep is not None and self._column.name is not None:
            for name in self._keep.only:
                if name not in self._found:
                    raise missing(name, self._names, "--keep", at)

    def _begin(self, record: object, line: int) -> Column:
        name: str | None = None
        if isinstance(record, dict):
            self._names = list(record)
            name = choose(self._names, self._wanted, Place(self._source, line, self._unit))
        else:
            at = Place(self._source, line, self._unit)
            self._wanted.check_none(at, _kind_of(record), "Write objects")
        self._column = Column(self._source, name, self._unit, self._wanted.id_column)
        return self._column

    def _rows(self, records: list[Any], column: Column) -> Rows:
        """The records as rows, if all of them are valid.

        Raises:
            TypeError, KeyError: a record is invalid.
        """
        uris, refs = self._uris_and_refs(records, column)
        return Rows(uris, refs, self._values(records, column))

    def _values(self, records: list[Any], column: Column) -> list[Values] | None:
        if self._keep is None:
            return None
        if column.name is None:
            return [{}] * len(records)
        if self._keep.only:
            return self._values_of(records, self._keep.only)
        for record in records:
            self._found.update(record)
        own = {column.name, column.id_name}
        self._keep.note(name for name in self._found if name not in own)
        return [{name: record[name] for name in record if name not in own} for record in records]

    def _values_of(self, records: list[Any], names: Sequence[str]) -> list[Values]:
        if len(self._found) < len(names):
            for record in records:
                self._found.update({name: None for name in names if name in record})
        return [{name: record.get(name) for name in names} for record in records]

    def _uris_and_refs(
        self, records: list[Any], column: Column
    ) -> tuple[list[str], list[str | None] | None]:
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
                yield from in_runs(self._rows([record], column), column, Lines(line))
            else:
                shown = record.get(column.name, "") if isinstance(record, dict) else record
                shown = shown if isinstance(shown, str) else ""
                is_object = isinstance(record, dict) and column.name is not None
                values = self._values([record], column) if is_object else None
                where = (self._source, line, self._unit, column.name)
                yield Bad(reason, *where, shown, values=values[0] if values else None)


def _id_of(ref: str | int | None) -> str | None:
    if isinstance(ref, int):
        if ref not in _INTEGERS:
            raise TypeError
        return str(ref)
    return ref


def _why_bad(record: object, column: Column) -> str | None:
    if column.name is None:
        return None if isinstance(record, str) else f"{_kind_of(record)}, not a text"
    if not isinstance(record, dict):
        return f"{_kind_of(record)}, not an object"
    if column.name not in record:
        return f"no {column.name!r} in this object"
    uri = record[column.name]
    if not isinstance(uri, str):
        return f"{_kind_of(uri)}, not a text"
    ref = record.get(column.id_name) if column.id_name is not None else None
    if type(ref) not in _REF_TYPES or (isinstance(ref, int) and ref not in _INTEGERS):
        return f"the id is {_kind_of(ref)}; it must be a text or an integer of 64 bits"
    return None


def _kind_of(value: object) -> str:
    if type(value) is int:
        return "an integer" if value in _INTEGERS else _NO_INTEGER
    names = {
        dict: "an object", list: "a list", str: "a text", bool: "true or false",
        float: _NO_INTEGER, type(None): "null",
    }  # fmt: skip
    return names[type(value)]
