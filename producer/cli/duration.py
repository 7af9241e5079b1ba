"""Durations as people type them, for example in `submit --expires`: `90s`, `30m`, `2h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

from contract.errors import UsageError

UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd])")


def read_duration(text: str) -> float:
    """Converts a duration to seconds.

    Raises:
        UsageError: the text is not a number with one of the units.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{text!r} is not a duration. Write a number with its unit: 90s, 30m, 2h, 7d."
        )
    return float(found[1]) * UNITS_S[found[2]]
