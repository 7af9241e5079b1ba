"""How figures and progress are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence


def tell(what: str) -> None:
    """Progress, with the time."""
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def shown(value: float) -> str:
    """Three digits that count."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


def spread(values: Sequence[float]) -> str:
    return f"{shown(min(values))} to {shown(max(values))}"
