"""Formats scores of many rows: each float32 with the fewest digits that restore it exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import orjson

from contract.record import shortest_of
from producer.jobs.export.rows import MODEL_NUMBER, NAMES, SCORES, Row

_LAST_CLASS = NAMES.index("class_5")
_FIRST_KNOWN = NAMES.index("bytes")


def is_whole(row: Row) -> bool:
    """Whether the row has five classes and all facts about the picture."""
    return row[_LAST_CLASS] is not None and None not in row[_FIRST_KNOWN : MODEL_NUMBER + 1]


def score_texts(rows: Sequence[Row]) -> Iterator[Sequence[str]]:
    """The five scores of each complete row."""
    scores = list(chain.from_iterable(row[SCORES : SCORES + 5] for row in rows if is_whole(row)))
    if not scores:
        return iter(())
    texts = iter(orjson.dumps(shortest_of(scores))[1:-1].decode().split(","))
    return zip(texts, texts, texts, texts, texts, strict=True)
