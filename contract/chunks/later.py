"""Images of one chunk that wait for different times.

A chunk has one due time and one count of attempts. Both belong to its current images, which are
published together. The others wait in `chunks.later`, in groups with their own time and count. When
the current images are done, the group that is due first becomes current.

Waits of up to about a minute share a group, and so do longer waits that differ by less than a
factor of two. So a chunk has few groups, and another image's `Retry-After` delays an image by at
most 64 s, or at most doubles its own wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any, Final

# Waits up to this share a group, because a group costs a message, a claim and a transaction.
SHORT_WAIT_S: Final = 60.0


@dataclass(frozen=True)
class Group:
    """Images that are due together."""

    due: float
    """Seconds since 1970, by the database's clock."""
    attempt: int
    """The number of runs that each of them has had."""
    offsets: tuple[int, ...]

    def encode(self) -> dict[str, Any]:
        return {"due": self.due, "attempt": self.attempt, "offsets": list(self.offsets)}


def decode(later: Sequence[Mapping[str, Any]] | None) -> list[Group]:
    """Decodes the waiting groups from `chunks.later`."""
    return [Group(one["due"], one["attempt"], tuple(one["offsets"])) for one in later or ()]


def encode(groups: Iterable[Group]) -> list[dict[str, Any]] | None:
    """Encodes groups for `chunks.later`; None if no group waits."""
    return [group.encode() for group in groups] or None


def waiting(later: Sequence[Mapping[str, Any]] | None) -> frozenset[int]:
    """Offsets that are not current."""
    return frozenset(offset for group in decode(later) for offset in group.offsets)


def current(remaining: Iterable[int], later: Sequence[Mapping[str, Any]] | None) -> list[int]:
    """Offsets that are published together next, in order."""
    others = waiting(later)
    return [offset for offset in remaining if offset not in others]


def by_wait(waits_s: Mapping[int, float], *, attempt: int, now: float) -> list[Group]:
    """Groups images by how long they must wait."""
    groups: dict[int, list[int]] = defaultdict(list)
    for offset, wait_s in waits_s.items():
        groups[ceil(log2(max(wait_s, SHORT_WAIT_S)))].append(offset)
    return [
        Group(now + max(waits_s[offset] for offset in offsets), attempt, tuple(sorted(offsets)))
        for offsets in groups.values()
    ]


def next_of(groups: Iterable[Group]) -> tuple[Group | None, list[Group]]:
    """The group that is due first, and the rest, without empty groups."""
    ordered = sorted(_merged(groups), key=lambda group: (group.due, group.attempt))
    return (ordered[0], ordered[1:]) if ordered else (None, [])


def _merged(groups: Iterable[Group]) -> list[Group]:
    """Merges groups with the same due time and the same number of attempts."""
    merged: dict[tuple[float, int], list[int]] = defaultdict(list)
    for group in groups:
        merged[group.due, group.attempt] += group.offsets
    return [
        Group(due, attempt, tuple(sorted(offsets)))
        for (due, attempt), offsets in merged.items()
        if offsets
    ]
