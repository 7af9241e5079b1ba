"""What `resnextq doctor` finds out: one `Check` a line, from the producer's side and the worker's.

A check that hangs is given up, so that all the others are told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from contract.errors import ResnextQueueError

State = Literal["ok", "warning", "failure"]

# Above every time-out within a check: the connections have shorter ones.
WITHIN_S: Final = 15.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do next; empty where nothing has to be done."""


def guarded(
    name: str, look: Callable[[], Iterable[Check]], *, within_s: float = WITHIN_S
) -> Iterator[Check]:
    """What `look` gives; a failure of that name in place of what it raises, or if it hangs."""
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.extend(_look(name, look)), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        advice = "Raise the limit of processes and threads (`ulimit -u`, the container's own)."
        yield Check(name, "failure", f"not looked at: {error}", advice)
        return
    thread.join(within_s)
    if thread.is_alive():
        advice = "Something that it asks hangs: the network, a name server, or a file server."
        yield Check(name, "failure", f"no answer within {within_s:.0f} s", advice)
        return
    yield from found


def _look(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    checks = []
    try:
        for check in look():
            checks.append(check)  # noqa: PERF402  (what came before an error is told as well)
    except ResnextQueueError as error:
        # Its last sentence says what to do.
        found, _, advice = str(error).rstrip(".").rpartition(". ")
        checks.append(Check(name, "failure", found or str(error), f"{advice}." if found else ""))
    except Exception as error:  # noqa: BLE001  (a doctor tells, whatever it is)
        checks.append(Check(name, "failure", f"{type(error).__name__}: {error}"))
    return checks
