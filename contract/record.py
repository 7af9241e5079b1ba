"""An image's answer as programs read it: a line of `results --format jsonl` and `classify --json`.

The producer makes it of a row in SQL, a worker of what it has just classified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

Record = dict[str, Any]

PROVENANCE: Final = ("final_uri", "bytes", "sha256", "format", "width", "height")


def make_record(  # noqa: PLR0913  (what a line says)
    *,
    position: int,
    uri: str,
    ref: str | None,
    answer: Record,
    model: str,
    attempts: int,
    known: Mapping[str, Any],
) -> Record:
    """A line of one image. `answer` comes of `classified` or `failed`, `model` is a title; of
    `known`, precision, orientation and what was fetched are shown where they have a value.
    """
    record: Record = {"position": position, "uri": uri}
    if ref is not None:
        record["ref"] = ref
    record |= answer | {"model": model, "attempts": attempts}
    names = ("precision", "orientation", *PROVENANCE)
    return record | {name: known[name] for name in names if known.get(name) is not None}


def classified(guesses: Iterable[tuple[str | None, int, float]]) -> Record:
    """Of label, class id and score, the likeliest first."""
    top5 = [
        {"label": label, "class_id": class_id, "score": shortest(score)}
        for label, class_id, score in guesses
    ]
    return {"status": "classified", "top5": top5}


def failed(code: str, detail: str) -> Record:
    return {"status": "failed", "error": {"code": code, "detail": detail}}


def shortest(score: float) -> float:
    """A float32 with the fewest digits that give it back: 0.1 where it reads 0.10000000149."""
    stored = struct.pack("f", score)
    for digits in (7, 8):
        short = float(f"{score:.{digits}g}")
        if struct.pack("f", short) == stored:
            return short
    return float(f"{score:.9g}")  # enough for every float32
