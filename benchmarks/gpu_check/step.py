"""What a step is, and what it is given."""

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
    """On a GPU: it starts only if so much is left."""
    limit_s: float
    """It hangs if it takes longer, and is ended."""
    on_cpu: bool = False
    """It has something to say without a GPU, too."""
    may_be_cut: bool = False
    """The deadline may come while it runs: what it has found counts, the rest is skipped."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a step's process gets from the check."""

    out: Path
    """For what is kept."""
    scratch: Path
    """Of all steps of this check, and gone after it."""
    ends_at: float
    """By `time.time`: the step is ended then."""

    patience: float = 1.0
    """Times the limits. A CPU is shared with others, and costs nobody device time."""

    @property
    def left_s(self) -> float:
        return self.ends_at - time.time()

    def earlier(self, step: str, what: str) -> float | None:
        """A figure of a step before this one, or of an earlier check with the same `out`."""
        found = read_findings(self.out / FINDINGS, step)
        return next((one.value for one in found if one.what == what), None)


Check = Callable[[Given, Report], None]


def die_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
