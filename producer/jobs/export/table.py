"""Rows → CSV: a table with a heading, made for spreadsheets.

A cell that a spreadsheet would run as a formula gets an apostrophe: see `producer.jobs.cells`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from contract.record import PROVENANCE, Record
from producer.jobs.cells import cell
from producer.jobs.export.rows import RANKS, Row, Vocabulary, as_text, record_of
from producer.jobs.export.scores import is_whole, score_texts

COLUMNS: Final = (
    *("position", "uri", "ref", "status"),
    *(f"label_{rank}" for rank in RANKS),
    *(f"class_{rank}" for rank in RANKS),
    *(f"score_{rank}" for rank in RANKS),
    *("error_code", "error_detail", "model", "precision", "attempts"),
    *PROVENANCE,
    "orientation",  # last, because it was added later
)


class Table:
    def __init__(self, vocabulary: Vocabulary, kept: Sequence[str] = ()) -> None:
        """`kept` names the submitted list's own columns."""
        self._vocabulary = vocabulary
        self._names = (*COLUMNS, *(cell(f"input_{name}") for name in kept))
        self._labels: dict[int, _Labels] = {}
        self._few = _Few()

    def head(self) -> bytes:
        return _line(self._names).encode()

    def encode(self, rows: Sequence[Row], kept: Sequence[Sequence[Any]] | None = None) -> bytes:
        """`kept` has the values of the submitted list's own columns, one sequence per row."""
        scores = score_texts(rows)
        lines = [
            self._line(row, next(scores)) if is_whole(row) else self._by_record(row) for row in rows
        ]
        if kept:
            lines = [
                f"{line[:-1]},{','.join(_text(as_text(value)) for value in theirs)}\n"
                for line, theirs in zip(lines, kept, strict=True)
            ]
        return "".join(lines).encode()

    def _line(self, row: Row, scores: Sequence[str]) -> str:
        position, uri, ref, attempts, _, _, final_uri, size, sha256, form, width, height = row[:12]
        model, precision, orientation, class_1, class_2, class_3, class_4, class_5 = row[12:20]
        few = self._few
        label = self._labels.get(model) or self._make_labels(model)
        return (
            f"{position},{_text(uri)},{(ref and _text(ref)) or ''},classified,{label[class_1]},"
            f"{label[class_2]},{label[class_3]},{label[class_4]},{label[class_5]},"
            f"{class_1},{class_2},{class_3},{class_4},{class_5},{','.join(scores)},,,"
            f"{label.title},{few[precision]},{attempts},"
            f"{(final_uri and _text(final_uri)) or ''},{size},{sha256},{few[form]},"
            f"{width},{height},{few[orientation]}\n"
        )

    def _make_labels(self, model: int) -> _Labels:
        made = _Labels(self._vocabulary.labels(model), self._vocabulary.title(model))
        self._labels[model] = made
        return made

    def _by_record(self, row: Row) -> str:
        flat = flatten(record_of(row, self._vocabulary))
        return _line([flat.get(name) for name in COLUMNS])


class _Labels(dict[int, str]):
    """Cells with a model's labels, each made when it is first needed."""

    def __init__(self, labels: dict[int, str], title: str) -> None:
        super().__init__()
        self._labels = labels
        self.title = _text(title)

    def __missing__(self, class_id: int) -> str:
        made = _text(self._labels.get(class_id, ""))
        self[class_id] = made
        return made


class _Few(dict[str | None, str]):
    """Cells with texts that repeat often: formats, precisions."""

    def __missing__(self, text: str | None) -> str:
        made = _text(text or "")
        self[text] = made
        return made


def flatten(record: Record) -> Record:
    """A record as a flat row: no lists, no dictionaries, no formulas."""
    row: Record = {name: value for name, value in record.items() if name not in ("top5", "error")}
    for rank, guess in enumerate(record.get("top5", ()), start=1):
        row[f"label_{rank}"] = guess["label"]
        row[f"class_{rank}"] = guess["class_id"]
        row[f"score_{rank}"] = guess["score"]
    if "error" in record:
        row["error_code"] = record["error"]["code"]
        row["error_detail"] = record["error"]["detail"]
    return {name: cell(v) if isinstance(v, str) else v for name, v in row.items()}


def _line(values: Iterable[object]) -> str:
    return ",".join("" if value is None else _quoted(str(value)) for value in values) + "\n"


def _text(text: str) -> str:
    """A stranger's text as a cell. Almost all are URIs in plain ASCII, which a quick test finds."""
    if (
        text[:1].isalnum()
        and text.isascii()
        and text.isprintable()
        and ";" not in text
        and "," not in text
        and '"' not in text
    ):
        return text
    return _quoted(cell(text))


def _quoted(text: str) -> str:
    """Quotes like the csv module, which takes longer per cell than all the rest of the line."""
    if "," in text or '"' in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
