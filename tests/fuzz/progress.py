"""The progress of a fuzzing run, read from libFuzzer's output."""

from __future__ import annotations

import re
import time

# `#8192	pulse  cov: 51 ft: 90 corp: 9/10Kb lim: 24000 exec/s: 200 rss: 300Mb`
STATUS = re.compile(r"#(\d+)\s.*\brss: (\d+)Mb")
AT_ITS_END = re.compile(r"stat::(\w+):\s+(\d+)")


class Progress:
    """Owns the counts over all processes that a run starts in sequence."""

    def __init__(self, *, odd_images: int, peak_mib: int, seconds: float) -> None:
        """Begins a run.

        Args:
            odd_images: the number of images decoded so far.
            peak_mib: the most memory that one of them took.
            seconds: how long the run lasts from now.
        """
        self._odd_images = odd_images
        self._peak_mib = peak_mib
        self._began_at = time.monotonic()
        self._ends_at = self._began_at + seconds
        self._of_others = 0
        self._of_this_one = 0
        self._slowest_s = 0

    @property
    def left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def read(self, line: str) -> None:
        """Reads a line from the current process, which may just have ended."""
        if status := STATUS.match(line):
            self._of_this_one = max(self._of_this_one, int(status[1]))
            self._peak_mib = max(self._peak_mib, int(status[2]))
        elif end := AT_ITS_END.match(line):
            name, number = end[1], int(end[2])
            if name == "number_of_executed_units":
                self._of_this_one = number
            elif name == "peak_rss_mb":
                self._peak_mib = max(self._peak_mib, number)
            elif name == "slowest_unit_time_sec":
                self._slowest_s = max(self._slowest_s, number)

    def next_process(self) -> None:
        self._of_others += self._of_this_one
        self._of_this_one = 0

    def so_far(self, found: int) -> str:
        minutes, seconds = divmod(max(0, round(self.left_s)), 60)
        return f"  {minutes}:{seconds:02} left: {self._counts(found)}"

    def at_the_end(self, found: int) -> str:
        minutes = (time.monotonic() - self._began_at) / 60
        return (
            f"{self._odd_images:,} odd images, and in {minutes:.1f} minutes {self._counts(found)}; "
            f"none took longer than {self._slowest_s + 1} s"
        )

    def _counts(self, found: int) -> str:
        tried = self._of_others + self._of_this_one
        rate = tried / max(1.0, time.monotonic() - self._began_at)
        return (
            f"{tried:,} images tried ({rate:,.0f}/s), {found} found, at most {self._peak_mib:,} MiB"
        )
