"""Why a loader died: which image fails for it, and which ones its replacement loads again.

`worker.pool.replacement` asks once for each loader that has died. The note in shared memory names
the image that was being decoded. If there is no note, each image in flight is a suspect, and
counts the death. After `MOST_UNEXPLAINED_DEATHS` they go into quarantine: see
`worker.pool.quarantine`. There an image fails only if it was alone in a loader that had loaded
nothing else. An image that takes its loader over can write any note: so images that were beside
many suspects (`MOST_DEATHS_OF_OTHERS`) go into quarantine as well, where a note can name none but
them.
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

# Signals that a process causes by its own code. Any other end (SIGKILL by a person, or by the
# kernel when memory is short) may not be the fault of the image that was being decoded.
CRASHES: Final = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
# Deaths of a loader that name no suspect, until the images in flight are tried in small groups.
# One or two may come from outside, and a group is slower than a whole loader.
MOST_UNEXPLAINED_DEATHS: Final = 3
# The same of deaths that name another image, which is true as a rule.
MOST_DEATHS_OF_OTHERS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long a loader may take before the pool ends it."""

    decode_s: float
    """For decoding one image, of processor time."""
    silence_s: float
    """For its next answer, while it has images to load."""

    @property
    def decode_wall_s(self) -> float:
        """For decoding one image, by the clock."""
        return WALL_FACTOR * self.decode_s


@dataclass(frozen=True)
class Verdict:
    again: list[LoadRequest]
    """Loaded again by the replacement, at once."""
    quarantine: Quarantine | None = None
    """Loaded again by the replacement, in small groups; then `again` is empty."""
    failed: list[LoadRequest] = field(default_factory=list)
    failure: Failure | None = None
    """What `failed` failed with; None if there are none."""


def judge(dead: LoaderProcess, deadlines: Deadlines) -> Verdict:
    """Divides a dead loader's images into those that fail and those that are loaded again."""
    if dead.mute:  # any of them may be what it hangs at; SQL has each tried again alone
        failure = Failure("timeout", f"no answer of its loader for {deadlines.silence_s:g} s")
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


def _suspect_slot(dead: LoaderProcess) -> int | None:
    """The slot of the image that was being decoded, or that was alone in quarantine."""
    note = dead.slots.noted()
    if note is not None and note.slot in dead.requests:
        return note.slot
    if dead.quarantine is not None and dead.ready and not dead.answered and len(dead.requests) == 1:
        return next(iter(dead.requests))
    return None


def _count_death(dead: LoaderProcess) -> list[LoadRequest]:
    """A loader that was not ready yet had no image, so it did not die of one."""
    if not dead.ready:
        return list(dead.requests.values())
    return [
        replace(request, unexplained_deaths=request.unexplained_deaths + 1)
        for request in dead.requests.values()
    ]


def _beside_suspect(requests: Iterable[LoadRequest]) -> list[LoadRequest]:
    return [replace(one, deaths_of_others=one.deaths_of_others + 1) for one in requests]


def _failure(dead: LoaderProcess, suspect: LoadRequest, deadlines: Deadlines) -> Failure | None:
    """What the suspect fails with; None if it gets another try."""
    note = dead.slots.noted()
    if dead.overdue is not None and dead.overdue == note:
        return Failure("decode_timeout", f"more than {deadlines.decode_s:g} s of processor time")
    if dead.stalled is not None and dead.stalled == note:
        limit = f"not decoded within {deadlines.decode_wall_s:g} s"
        reason = f"its loader had less than {deadlines.decode_s:g} s of processor time for it"
        return Failure("timeout", f"{limit}: {reason}")
    if dead.child.returncode in CRASHES:
        return Failure("crashed", f"the {'loader' if note is None else 'decoder'} crashed")
    if suspect.kills:
        what = "had this image alone" if note is None else "decoded this image"
        return Failure("crashed", f"the loader was killed each time that it {what}")
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
