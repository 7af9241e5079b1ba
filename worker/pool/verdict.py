"""Decides why a loader died: which image fails, and which images its replacement loads again.

`worker.pool.replacement` asks once for each loader that has died. The note in shared memory names
the image that was being decoded. If there is no note, each image in flight is a suspect, and counts
the death. After `MOST_UNEXPLAINED_DEATHS` these images go into quarantine; see
`worker.pool.quarantine`. There an image fails only if it was alone in a loader that had loaded
nothing else. An image that takes over its loader can write any note. So images that were in flight
with many suspects (`MOST_DEATHS_OF_OTHERS`) go into quarantine as well, where a note can only name
one of them.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from contract.failure import Failure
from worker.pool.process import WALL_FACTOR, LoaderProcess
from worker.pool.quarantine import Quarantine
from worker.pool.request import LoadRequest

# Signals that a process's own code raises. After any other end (SIGKILL by a person, or by the
# kernel when memory is short) the image that was being decoded may not be to blame.
CRASHES: Final = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
CAUSES: Final = (
    "crashed", "killed", "ended", "decode_timeout", "timeout", "mute", "distrusted",
)  # fmt: skip
"""The causes that `cause_of` returns. `resnext_loader_restarts_total` explains them."""
# After this many deaths without a named suspect, an image is tried in a small group. One or two
# deaths may come from outside, and a small group is slower.
MOST_UNEXPLAINED_DEATHS: Final = 3
# The same for deaths that name another image, which is usually right.
MOST_DEATHS_OF_OTHERS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long a loader may take before the pool ends it."""

    decode_s: float
    """The processor time to decode one image."""
    silence_s: float
    """The time until its next answer, while it has images to load."""

    @property
    def decode_wall_s(self) -> float:
        """The time to decode one image, by the clock."""
        return WALL_FACTOR * self.decode_s


@dataclass(frozen=True)
class Verdict:
    again: list[LoadRequest]
    """The images that the replacement loads again at once."""
    quarantine: Quarantine | None = None
    """The images that the replacement loads again in small groups. Then `again` is empty."""
    failed: list[LoadRequest] = field(default_factory=list)
    failure: Failure | None = None
    """The failure of the images in `failed`; None if there are none."""


def judge(dead: LoaderProcess, deadlines: Deadlines) -> Verdict:
    """Divides a dead loader's images into those that fail and those that are loaded again."""
    if dead.mute:  # it may hang at any of them, so all are retried through SQL
        failure = Failure("timeout", f"no answer from its loader for {deadlines.silence_s:g} s")
        again = _again(dead, [])
        return replace(again, failed=list(dead.requests.values()), failure=failure)
    slot = _suspect_slot(dead)
    if slot is None:
        return _again(dead, _count_death(dead))
    requests = dict(dead.requests)
    suspect = requests.pop(slot)
    others = _beside_suspect(requests.values())
    failure_of_suspect = _failure(dead, suspect, deadlines)
    if failure_of_suspect is None:
        return _again(dead, [replace(suspect, kills=suspect.kills + 1), *others])
    return replace(_again(dead, others), failed=[suspect], failure=failure_of_suspect)


def cause_of(dead: LoaderProcess) -> str:
    """Why the loader ended, as a label for the metrics."""
    if dead.distrusted:
        return "distrusted"
    if dead.mute:
        return "mute"
    if dead.overdue is not None:
        return "decode_timeout"
    if dead.stalled is not None:
        return "timeout"
    status = dead.child.returncode
    if status in CRASHES:
        return "crashed"
    return "killed" if status < 0 else "ended"


def _suspect_slot(dead: LoaderProcess) -> int | None:
    """The slot of the image that was being decoded, or that was alone in quarantine."""
    note = dead.slots.noted()
    if note is not None and note.slot in dead.requests:
        return note.slot
    if dead.quarantine is not None and dead.ready and not dead.answered and len(dead.requests) == 1:
        return next(iter(dead.requests))
    return None


def _count_death(dead: LoaderProcess) -> list[LoadRequest]:
    """Counts the death for its images, unless the loader was not ready and so had none."""
    if not dead.ready:
        return list(dead.requests.values())
    return [
        replace(request, unexplained_deaths=request.unexplained_deaths + 1)
        for request in dead.requests.values()
    ]


def _beside_suspect(requests: Iterable[LoadRequest]) -> list[LoadRequest]:
    return [replace(one, deaths_of_others=one.deaths_of_others + 1) for one in requests]


def _failure(dead: LoaderProcess, suspect: LoadRequest, deadlines: Deadlines) -> Failure | None:
    """The suspect's failure, or None if it gets another try."""
    note = dead.slots.noted()
    if dead.overdue is not None and dead.overdue == note:
        return Failure("decode_timeout", f"more than {deadlines.decode_s:g} s of processor time")
    if dead.stalled is not None and dead.stalled == note:
        limit = f"not decoded within {deadlines.decode_wall_s:g} s"
        reason = f"its loader got less than {deadlines.decode_s:g} s of processor time for it"
        return Failure("timeout", f"{limit}: {reason}")
    if dead.child.returncode in CRASHES:
        return Failure("crashed", f"the {'loader' if note is None else 'decoder'} crashed")
    if suspect.kills:
        what = "had this image alone" if note is None else "decoded this image"
        return Failure("crashed", f"the loader was killed each time it {what}")
    return None


def _again(dead: LoaderProcess, requests: list[LoadRequest]) -> Verdict:
    """Loads these again, in quarantine if they or the dead loader need it."""
    if dead.quarantine is None and not any(map(_is_suspicious, requests)):
        return Verdict(requests)
    waiting = deque(requests)
    if dead.quarantine is not None:
        waiting.extend(dead.quarantine.waiting)
    if not waiting:
        return Verdict([])
    return Verdict([], Quarantine(waiting, max(1, len(requests) // 2)))


def _is_suspicious(request: LoadRequest) -> bool:
    return (
        request.unexplained_deaths >= MOST_UNEXPLAINED_DEATHS
        or request.deaths_of_others >= MOST_DEATHS_OF_OTHERS
    )
