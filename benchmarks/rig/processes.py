"""CPU time and memory of processes and all their descendants, from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

TICKS_A_S = os.sysconf("SC_CLK_TCK")
# proc(5), stat: fields after the name, which is in brackets and may hold anything.
_PARENT = 1
_TIMES = slice(11, 15)  # utime, stime, and of children that have ended and been waited for


def cpu_s(roots: Iterable[int], *, without: Iterable[int] = ()) -> float:
    """User and system time of these processes and their descendants, including ended ones.

    Leaves out the processes in `without` and their descendants.
    """
    stats = dict(_stats())
    left_out = set(without)
    seconds = 0.0
    for pid in _family(stats, roots, left_out):
        seconds += sum(map(int, stats[pid][_TIMES])) / TICKS_A_S
    return seconds


def pss_bytes(root: int) -> int:
    """The memory of a process and its descendants; shared memory counts once."""
    sizes = []
    for pid in _family(dict(_stats()), [root], set()):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return sum(sizes)


def _stats() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # the process has ended
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()


def _family(stats: dict[int, list[str]], roots: Iterable[int], left_out: set[int]) -> Iterator[int]:
    for root in roots:
        if root in stats and root not in left_out:
            yield root
            children = [pid for pid, stat in stats.items() if int(stat[_PARENT]) == root]
            yield from _family(stats, children, left_out)
