"""A time as people type it, for `submit --expires`: `90s`, `30m`, `2h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

from contract.errors import UsageError

UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd])")


def read_duration(text: str) -> float:
    """Seconds.

    Raises:
        UsageError: it is not a number with one of the units.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{text!r} is no duration; it is a number with its unit: 90s, 30m, 2h, 7d."
        )
    return float(found[1]) * UNITS_S[found[2]]
