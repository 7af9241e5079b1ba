"""Discrete events: processes that wait for a time, or for a place at a station.

A process is a generator. It yields seconds to wait for, or a `Station` to wait for a place there;
it leaves the place itself. `Clock.run` resumes processes in the order of their times. Equal times
come in the order in which they were asked for, so a simulation always gives the same result.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from itertools import count
from typing import TypeAlias

Process: TypeAlias = Generator["float | Station", None, None]


class Clock:
    """Owns the time, in seconds, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, Process]] = []

    def start(self, process: Process, after_s: float = 0.0) -> None:
        heapq.heappush(self._due, (self.now + after_s, next(self._order), process))

    def run(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            self.now, _, process = heapq.heappop(self._due)
            self._resume(process)
        self.now = until_s

    def _resume(self, process: Process) -> None:
        for wanted in process:
            if isinstance(wanted, Station):
                if not wanted.enter(process):
                    return
            elif wanted > 0:
                self.start(process, wanted)
                return


class Station:
    """Places that processes take in the order in which they come."""

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock = clock
        self.places = places
        self._taken = 0
        self._waiting: deque[Process] = deque()
        self._taken_s = 0.0
        self._since = clock.now
        self.arrived = self.left = 0

    def enter(self, process: Process) -> bool:
        """Whether there is a place; else the process goes on when it has one."""
        self.arrived += 1
        if self._taken < self.places:
            self._take(1)
            return True
        self._waiting.append(process)
        return False

    def leave(self) -> None:
        self.left += 1
        if self._waiting:  # the place goes on to the next one
            self._clock.start(self._waiting.popleft())
        else:
            self._take(-1)

    def _take(self, more: int) -> None:
        self._note()
        self._taken += more

    def _note(self) -> None:
        self._taken_s += self._taken * (self._clock.now - self._since)
        self._since = self._clock.now

    @property
    def taken(self) -> int:
        """Places now."""
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def taken_s(self) -> float:
        """Seconds for which places were taken, added up."""
        self._note()
        return self._taken_s
