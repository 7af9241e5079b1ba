"""An image's answer for programs: a line of `results --format jsonl` and `classify --json`.

The producer makes it from a row in SQL, a worker from an image that it has just classified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from math import floor, frexp, log10
from typing import Any, Final

Record = dict[str, Any]

PROVENANCE: Final = ("final_uri", "bytes", "sha256", "format", "width", "height")


def make_record(  # noqa: PLR0913  (the parts of a line)
    *,
    position: int,
    uri: str,
    ref: str | None,
    answer: Record,
    model: str,
    attempts: int,
    known: Mapping[str, Any],
) -> Record:
    """The record of one image. `answer` comes from `classified` or `failed`; `model` is a title.
    From `known` it takes precision, orientation and the fields of `PROVENANCE`, if they have a
    value.
    """
    record: Record = {"position": position, "uri": uri}
    if ref is not None:
        record["ref"] = ref
    record |= answer | {"model": model, "attempts": attempts}
    names = ("precision", "orientation", *PROVENANCE)
    return record | {name: known[name] for name in names if known.get(name) is not None}


def classified(guesses: Iterable[tuple[str | None, int, float]]) -> Record:
    """The answer from labels, class ids and scores, most likely class first."""
    top5 = [
        {"label": label, "class_id": class_id, "score": shortest(score)}
        for label, class_id, score in guesses
    ]
    return {"status": "classified", "top5": top5}


def failed(code: str, detail: str) -> Record:
    return {"status": "failed", "error": {"code": code, "detail": detail}}


def shortest(score: float) -> float:
    """A float32 with the fewest digits that identify it: 0.1 instead of 0.10000000149."""
    return shortest_of([score])[0]


def shortest_of(scores: Iterable[float]) -> list[float]:
    """Does the same for many scores, in a third of the time per score.

    It multiplies a score by a power of ten, rounds it to an integer and divides again: that is the
    nearest decimal with that many places. If it is within half a float32 step of the score, it
    identifies the score.
    """
    found = []
    for score in scores:
        fraction, exponent = frexp(score)
        # The float32 below a power of two is closer to it than the one above.
        half_step, powers = _BINADES.get(exponent, _NONE) if fraction != _POWER_OF_TWO else _NONE
        for power in powers:
            short = (score * power + _ROUNDING - _ROUNDING) / power
            if -half_step < short - score < half_step:
                found.append(short)
                break
        else:
            found.append(_shortest_by_text(score))
    return found


# Adding this number rounds a float64 to an integer: the sum has no binary places left.
_ROUNDING: Final = 1.5 * 2**52
# By binary exponent, from 2⁻⁴⁰ (below it a power of ten would not be exact) to 1: half the step
# from one float32 to the next, and powers of ten that leave six or seven digits and up to three
# more.
_BINADES: Final = {
    exponent: (
        2.0 ** (exponent - 25),
        tuple(10.0 ** (6 - floor(log10(2.0**exponent * 0.999)) + more) for more in range(4)),
    )
    for exponent in range(-40, 2)
}
_POWER_OF_TWO: Final = 0.5
_NONE: Final[tuple[float, tuple[float, ...]]] = (0.0, ())


def _shortest_by_text(score: float) -> float:
    stored = struct.pack("f", score)
    for digits in (7, 8):
        short = float(f"{score:.{digits}g}")
        if struct.pack("f", short) == stored:
            return short
    return float(f"{score:.9g}")  # enough for every float32
