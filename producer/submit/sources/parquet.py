"""Reads Parquet with pyarrow, an extra: only the columns that are needed, some thousand rows at
once.

Only this module loads pyarrow, and only to read such a file. pyarrow joins a text column, which
becomes one Python text. Converting each value by itself would cost more than all the rest.
"""

# ruff: noqa: PLC0415  (an extra)

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from contract.errors import SourceError, UnavailableError
from producer.submit.sources.columns import Wanted, check_once, choose, missing
from producer.submit.sources.entry import Bad, Image, Place, Values, quoted, shorten
from producer.submit.sources.runs import Column, Lines, Rows, in_runs

if TYPE_CHECKING:
    import pyarrow as pa

UNIT: Final = "row"
ROWS_AT_ONCE: Final = 8_192
# A column chunk is read in pieces of this size, instead of as a whole.
_BUFFER_BYTES: Final = 1_048_576


def read_parquet(file: BinaryIO, source: str, wanted: Wanted) -> Iterator[Image]:
    """Reads the images of a seekable file.

    Raises:
        SourceError: the file is damaged, a column is missing, or it does not hold text.
        UnavailableError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise UnavailableError(
            f"{shorten(source)} is Parquet, which needs pyarrow. "
            "Install it with: pip install '.[parquet]' in the project's folder"
        )
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        # Without reading ahead in other threads, memory stays small.
        parquet = ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        column = _choose(parquet.schema_arrow, source, wanted)
        yield from _rows(parquet, column, _kept(parquet.schema_arrow, column, wanted))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{shorten(source)} is a Parquet file that cannot be read: {_first_line(error)}. Copy "
            "or write it again."
        ) from error


def _rows(
    parquet: Any,  # noqa: ANN401  (pyarrow has no types)
    column: Column,
    kept: list[str] | None,
) -> Iterator[Image]:
    own = [name for name in (column.name, column.id_name) if name is not None]
    names = list(dict.fromkeys([*own, *(kept or ())]))
    first = 1
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
        values = None if kept is None else _values(batch, kept)
        yield from _images(batch, column, first, values)
        first += batch.num_rows


def _values(batch: pa.RecordBatch, kept: list[str]) -> list[Values]:
    columns = [_readable(batch.column(name)).to_pylist() for name in kept]
    if not columns:
        return [{}] * batch.num_rows
    return [dict(zip(kept, row, strict=True)) for row in zip(*columns, strict=True)]


def _readable(values: pa.Array) -> pa.Array:
    """Converts dates and times to text, because Python's own types lack nanoseconds and some
    years.
    """
    import pyarrow as pa

    types = pa.types
    is_time = types.is_date(values.type) or types.is_timestamp(values.type)
    return values.cast(pa.string()) if is_time or types.is_time(values.type) else values


def _images(
    batch: pa.RecordBatch, column: Column, first: int, values: list[Values] | None
) -> Iterator[Image]:
    if not batch.num_rows:
        return
    texts = _as_text(batch.column(column.name))
    refs = None if column.id_name is None else _as_text(batch.column(column.id_name)).to_pylist()
    refs = refs and [ref or None for ref in refs]
    joined = _joined(texts)
    if joined is None:  # there are nulls, or line ends within texts
        yield from _closely(Rows(texts.to_pylist(), refs, values), column, first)
    else:
        yield from in_runs(Rows(joined.split("\n"), refs, values), column, Lines(first), joined)


def _joined(texts: pa.Array) -> str | None:
    """All texts joined by line ends. None if this would not separate them."""
    import pyarrow as pa
    from pyarrow import compute

    if texts.null_count:
        return None
    offsets = pa.array([0, len(texts)], pa.int32())
    whole = compute.binary_join(pa.ListArray.from_arrays(offsets, texts), "\n")
    joined: str = whole[0].as_py()
    return joined if joined.count("\n") == len(texts) - 1 else None


def _closely(rows: Rows, column: Column, first: int) -> Iterator[Image]:
    """Passes on stretches without a null as a whole."""
    begin = 0
    for at, uri in enumerate([*rows.uris, None]):
        if uri is not None:
            continue
        if begin < at:
            yield from in_runs(rows.cut(begin, at), column, Lines(first + begin))
        if at < len(rows.uris):
            ref = rows.refs[at] if rows.refs else None
            values = None if rows.values is None else rows.values[at]
            where = (column.source, first + at, UNIT, column.name)
            yield Bad("empty", *where, "", ref, values=values)
        begin = at + 1


def _as_text(values: pa.Array) -> pa.Array:
    import pyarrow as pa

    return values if pa.types.is_string(values.type) else values.cast(pa.string())


def _choose(schema: pa.Schema, source: str, wanted: Wanted) -> Column:
    names = schema.names
    at = Place(source)
    check_once(names, at)
    name = choose(names, wanted, at)
    _check_type(schema, name, "--column", source)
    if wanted.id_column is not None:
        if wanted.id_column not in names:
            raise missing(wanted.id_column, names, "--id-column", at)
        _check_type(schema, wanted.id_column, "--id-column", source)
    return Column(source, name, UNIT, wanted.id_column)


def _kept(schema: pa.Schema, column: Column, wanted: Wanted) -> list[str] | None:
    """The columns to keep. None: not asked for.

    Raises:
        SourceError: a column is missing, or holds bytes.
    """
    import pyarrow as pa

    if wanted.keep is None:
        return None
    source = column.source
    kept = wanted.keep.of(schema.names, (column.name, column.id_name), Place(source))
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    for name in kept:
        kind = schema.field(name).type
        if any(is_such(kind) for is_such in of_bytes):
            raise Place(source, column=name).wrong(
                f"of type {shorten(str(kind))}, which is not text. Name the columns to keep: "
                "--keep A,B"
            )
    return kept


def _check_type(schema: pa.Schema, name: str, option: str, source: str) -> None:
    import pyarrow as pa

    kind = schema.field(name).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    is_text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    if is_text or (option == "--id-column" and types.is_integer(value)):
        return
    wants = "text or integers" if option == "--id-column" else "text"
    texts = [
        field.name
        for field in schema
        if types.is_string(field.type) or types.is_large_string(field.type)
    ]
    there = ", ".join(quoted(text) for text in texts) or "none"
    raise Place(source, column=name).wrong(
        f"of type {shorten(str(kind))}, but {option} takes {wants}. Columns of text: {there}."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
