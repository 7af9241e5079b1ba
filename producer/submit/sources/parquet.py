"""Parquet, by pyarrow, an extra: the columns with URIs and ids alone, some thousand rows at once.

The one module that loads pyarrow, and only where such a file is read. A text column is joined
within pyarrow and taken over as one text: to take each value by itself costs more than all the
rest.
"""

# ruff: noqa: PLC0415  (an extra)

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from contract.errors import SourceError, UnavailableError
from producer.submit.sources.columns import Wanted, check_once, choose, missing
from producer.submit.sources.entry import Bad, Image, Place, shorten
from producer.submit.sources.runs import Column, Lines, in_runs

if TYPE_CHECKING:
    import pyarrow as pa

UNIT: Final = "row"
ROWS_AT_ONCE: Final = 8_192
# A column chunk is read in pieces of this size; without it, each as a whole.
_BUFFER_BYTES: Final = 1_048_576


def read_parquet(file: BinaryIO, source: str, wanted: Wanted) -> Iterator[Image]:
    """The file can be sought in.

    Raises:
        SourceError: it is damaged; it has no such column, or the column holds no text.
        UnavailableError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise UnavailableError(
            f"{shorten(source)} is Parquet, which needs pyarrow. "
            "Install it with: pip install 'resnext-queue[parquet]'"
        )
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        # What one thread asks for is not read ahead by others: memory stays small.
        parquet = ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        column = _choose(parquet.schema_arrow, source, wanted)
        yield from _rows(parquet, column)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{shorten(source)} is Parquet and cannot be read: {_first_line(error)}. "
            "Copy or write it again."
        ) from error


def _rows(parquet: Any, column: Column) -> Iterator[Image]:  # noqa: ANN401  (pyarrow has no types)
    names = [name for name in (column.name, column.id_name) if name is not None]
    first = 1
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
        yield from _images(batch, column, first)
        first += batch.num_rows


def _images(batch: pa.RecordBatch, column: Column, first: int) -> Iterator[Image]:
    if not batch.num_rows:
        return
    texts = _as_text(batch.column(column.name))
    refs = None if column.id_name is None else _as_text(batch.column(column.id_name)).to_pylist()
    refs = refs and [ref or None for ref in refs]
    joined = _joined(texts)
    if joined is None:  # with nulls, or line ends within
        yield from _closely(texts, refs, column, first)
    else:
        yield from in_runs(joined.split("\n"), refs, column, Lines(first), joined)


def _joined(texts: pa.Array) -> str | None:
    """All of them with line ends between; None where that would not tell one from the next."""
    import pyarrow as pa
    from pyarrow import compute

    if texts.null_count:
        return None
    offsets = pa.array([0, len(texts)], pa.int32())
    whole = compute.binary_join(pa.ListArray.from_arrays(offsets, texts), "\n")
    joined: str = whole[0].as_py()
    return joined if joined.count("\n") == len(texts) - 1 else None


def _closely(
    texts: pa.Array, refs: list[str | None] | None, column: Column, first: int
) -> Iterator[Image]:
    """Stretches without a null together."""
    uris = texts.to_pylist()
    begin = 0
    for at, uri in enumerate([*uris, None]):
        if uri is not None:
            continue
        if begin < at:
            yield from in_runs(
                uris[begin:at], refs and refs[begin:at], column, Lines(first + begin)
            )
        if at < len(uris):
            ref = refs[at] if refs else None
            yield Bad("empty", column.source, first + at, UNIT, column.name, "", ref)
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
    there = ", ".join(repr(shorten(text)) for text in texts) or "none"
    raise SourceError(
        f"{Place(source, column=name)}: of type {shorten(str(kind))}, and {option} takes {wants}. "
        f"Columns of text: {there}."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
