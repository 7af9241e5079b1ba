"""The checks of `resnextq doctor`, one `Check` per line, on the producer's and the worker's side.

A check that hangs is given up, so that the others still run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from contract.errors import ResnextQueueError

State = Literal["ok", "warning", "failure"]

# Longer than every timeout within a check; connections have shorter ones.
WITHIN_S: Final = 15.0


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do next; empty if there is nothing to do."""


def guarded(
    name: str, look: Callable[[], Iterable[Check]], *, within_s: float = WITHIN_S
) -> Iterator[Check]:
    """Yields the checks of `look`. If it raises or hangs, yields a failure with this name."""
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.extend(_look(name, look)), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        advice = "Raise the limit of processes and threads (`ulimit -u`, or the container's)."
        yield Check(name, "failure", f"not checked: {error}", advice)
        return
    thread.join(within_s)
    if thread.is_alive():
        advice = "The network, a name server or a file server does not answer."
        yield Check(name, "failure", f"no answer within {within_s:.0f} s", advice)
        return
    yield from found


def _look(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    checks = []
    try:
        for check in look():
            checks.append(check)  # noqa: PERF402  (keeps the checks before an error)
    except ResnextQueueError as error:
        # Its last sentence says what to do.
        found, _, advice = str(error).rstrip(".").rpartition(". ")
        checks.append(Check(name, "failure", found or str(error), f"{advice}." if found else ""))
    except Exception as error:  # noqa: BLE001  (doctor reports every error)
        checks.append(Check(name, "failure", f"{type(error).__name__}: {error}"))
    return checks
