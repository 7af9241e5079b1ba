"""What a step is, and what it gets from the check."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check.report import Report, read_findings

FINDINGS = "gpu-check.jsonl"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, kw_only=True)
class Step:
    name: str
    check: str
    """`module:function`; see `Check`."""
    estimate_s: float
    """On a GPU. The step starts only if so much time is left."""
    limit_s: float
    """A step that takes longer counts as hanging and is ended."""
    on_cpu: bool = False
    """Whether the step also runs without a GPU."""
    may_be_cut: bool = False
    """Whether the deadline may end it: its findings count, the rest is skipped."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a step's process gets from the check."""

    out: Path
    """Folder for files that are kept."""
    scratch: Path
    """Folder that all steps of this check share; deleted at the end."""
    ends_at: float
    """When the step is ended, by `time.time`."""

    patience: float = 1.0
    """Multiplies the limits. A CPU is shared with other programs, and costs no device time."""

    @property
    def left_s(self) -> float:
        return self.ends_at - time.time()

    def earlier(self, step: str, what: str) -> float | None:
        """A figure from a step before this one, or from an earlier check with the same `out`."""
        found = read_findings(self.out / FINDINGS, step)
        return next((one.value for one in found if one.what == what), None)


Check = Callable[[Given, Report], None]


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent ends, for whatever reason."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
