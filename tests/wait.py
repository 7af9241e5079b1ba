"""Waits for what a test started. The limit is so long that only a fault can exceed it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WITHIN_S = 300.0
POLL_S = 0.02


def until(condition: Callable[[], Any], doubt: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline, doubt()
        time.sleep(POLL_S)
    return found
