"""Rows → JSONL: one object per line, exactly as `json.dumps` writes the row's record.

Most rows are complete: classified, with five classes and all facts about the picture. Their lines
are put together from texts that many rows share. All other rows are written from their record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from producer.jobs.export.rows import Row, Vocabulary, as_json, record_of
from producer.jobs.export.scores import is_whole, score_texts


class JsonLines:
    def __init__(self, vocabulary: Vocabulary, kept: Sequence[str] = ()) -> None:
        """`kept` names the submitted list's own columns."""
        self._vocabulary = vocabulary
        self._names = kept
        self._guesses: dict[int, dict[int, str]] = {}
        self._answers: dict[tuple[object, ...], str] = {}

    def head(self) -> bytes:
        return b""

    def encode(self, rows: Sequence[Row], kept: Sequence[Sequence[Any]] | None = None) -> bytes:
        """`kept` has the values of the submitted list's own columns, one sequence per row."""
        if not rows:
            return b""
        scores = score_texts(rows)
        lines = [
            self._line(row, next(scores)) if is_whole(row) else self._by_record(row) for row in rows
        ]
        if kept is not None and self._names:
            lines = [
                f'{line[:-1]}, "input": {self._object(values)}}}'
                for line, values in zip(lines, kept, strict=True)
            ]
        return ("\n".join(lines) + "\n").encode("ascii")

    def _object(self, values: Sequence[Any]) -> str:
        return as_json(dict(zip(self._names, values, strict=True)))

    def _by_record(self, row: Row) -> str:
        return json.dumps(record_of(row, self._vocabulary))

    def _line(self, row: Row, scores: Sequence[str]) -> str:
        position, uri, ref, attempts, _, _, final_uri, size, sha256, form, width, height = row[:12]
        model, precision, orientation, class_1, class_2, class_3, class_4, class_5 = row[12:20]
        score_1, score_2, score_3, score_4, score_5 = scores
        guess = self._guesses.get(model) or self._make_guesses(model)
        key = (model, attempts, precision, orientation)
        mine = "" if ref is None else f'"ref": {quoted(ref)}, '
        final = "" if final_uri is None else f'"final_uri": {quoted(final_uri)}, '
        return (
            f'{{"position": {position}, "uri": {quoted(uri)}, {mine}"status": "classified", '
            f'"top5": [{guess[class_1]}{score_1}}}, {guess[class_2]}{score_2}}}, '
            f"{guess[class_3]}{score_3}}}, {guess[class_4]}{score_4}}}, "
            f"{guess[class_5]}{score_5}}}], {self._answers.get(key) or self._make_answer(*key)}"
            f'{final}"bytes": {size}, "sha256": {quoted(sha256)}, "format": {quoted(form)}, '
            f'"width": {width}, "height": {height}}}'
        )

    def _make_guesses(self, model: int) -> dict[int, str]:
        """The text before each class's score, by class id."""
        made = _Guesses(self._vocabulary.labels(model))
        self._guesses[model] = made
        return made

    def _make_answer(
        self, model: int, attempts: int, precision: str | None, orientation: str | None
    ) -> str:
        known = {"precision": precision, "orientation": orientation}
        answer = {"model": self._vocabulary.title(model), "attempts": attempts}
        answer |= {name: value for name, value in known.items() if value is not None}
        text = json.dumps(answer)[1:-1] + ", "
        self._answers[model, attempts, precision, orientation] = text
        return text


class _Guesses(dict[int, str]):
    """The text of each class, made when it is first needed."""

    def __init__(self, labels: dict[int, str]) -> None:
        super().__init__()
        self._labels = labels

    def __missing__(self, class_id: int) -> str:
        guess = {"label": self._labels.get(class_id), "class_id": class_id}
        text = json.dumps(guess)[:-1] + ', "score": '
        self[class_id] = text
        return text
