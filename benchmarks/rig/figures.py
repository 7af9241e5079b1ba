"""Shows figures and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence


def tell(what: str) -> None:
    """Prints progress, with the time."""
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def shown(value: float) -> str:
    """A number with three significant digits."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


def spread(values: Sequence[float]) -> str:
    return f"{shown(min(values))} to {shown(max(values))}"
