"""Images of one chunk that wait for different times.

A chunk has one time at which it is due and one count of attempts. They are those of its current
images, which go out together. The others wait in `chunks.later`, in groups with a time and a count
of their own, and the group that is due first becomes current when the current images are done with.

Waits of up to about a minute share a group, and longer ones that differ by less than a factor of
two. So an image waits for another one's `Retry-After` for 64 s at most, or for as long again as it
has to wait itself, and a chunk has few groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any, Final

# Waits up to this share a group: a group costs a message, a claim and a transaction.
SHORT_WAIT_S: Final = 60.0


@dataclass(frozen=True)
class Group:
    """Images that are due together."""

    due: float
    """Seconds since 1970, by the database's clock."""
    attempt: int
    """Runs that each of them has had."""
    offsets: tuple[int, ...]

    def encode(self) -> dict[str, Any]:
        return {"due": self.due, "attempt": self.attempt, "offsets": list(self.offsets)}


def decode(later: Sequence[Mapping[str, Any]] | None) -> list[Group]:
    """The groups that wait, as `chunks.later` holds them."""
    return [Group(one["due"], one["attempt"], tuple(one["offsets"])) for one in later or ()]


def encode(groups: Iterable[Group]) -> list[dict[str, Any]] | None:
    """None where no group waits."""
    return [group.encode() for group in groups] or None


def waiting(later: Sequence[Mapping[str, Any]] | None) -> frozenset[int]:
    """Offsets that are not current."""
    return frozenset(offset for group in decode(later) for offset in group.offsets)


def current(remaining: Iterable[int], later: Sequence[Mapping[str, Any]] | None) -> list[int]:
    """Offsets that go out together next, in order."""
    others = waiting(later)
    return [offset for offset in remaining if offset not in others]


def by_wait(waits_s: Mapping[int, float], *, attempt: int, now: float) -> list[Group]:
    """Groups of images by how long they have to wait."""
    groups: dict[int, list[int]] = defaultdict(list)
    for offset, wait_s in waits_s.items():
        groups[ceil(log2(max(wait_s, SHORT_WAIT_S)))].append(offset)
    return [
        Group(now + max(waits_s[offset] for offset in offsets), attempt, tuple(sorted(offsets)))
        for offsets in groups.values()
    ]


def next_of(groups: Iterable[Group]) -> tuple[Group | None, list[Group]]:
    """The group that is due first, and the rest. Empty groups are dropped."""
    ordered = sorted(_merged(groups), key=lambda group: (group.due, group.attempt))
    return (ordered[0], ordered[1:]) if ordered else (None, [])


def _merged(groups: Iterable[Group]) -> list[Group]:
    """Groups that have had as many attempts and are due at the same time are one."""
    merged: dict[tuple[float, int], list[int]] = defaultdict(list)
    for group in groups:
        merged[group.due, group.attempt] += group.offsets
    return [
        Group(due, attempt, tuple(sorted(offsets)))
        for (due, attempt), offsets in merged.items()
        if offsets
    ]
