"""Step 3: causes the faults of a GPU on purpose, each in its own process.

After a sticky error the process must end with exit status 1: after a signal, a worker's supervisor
would suspect an image. Without a GPU, the double of CUDA has the faults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from resnext.run.compiler import CACHE, TRITON_CACHE

SKIPPED: Final = 77
"""The exit status of a fault that this machine cannot have; it prints why."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    what: str
    status: int = 0
    says: str = ""
    """Text that the process must print."""
    within_s: float = 60.0
    environment: tuple[tuple[str, str], ...] = ()
    program: str = "benchmarks.gpu_check.faults"


_NO_COMPILER: Final = (("CC", "/nowhere/cc"), ("CXX", "/nowhere/c++"))
FAULTS: Final = (
    Fault(name="memory", what="too little memory: halved, and right"),
    Fault(name="capture", what="a capture that fails: right without graphs"),
    Fault(name="sticky", what="an error that sticks", status=1, says="DeviceBroken"),
    Fault(name="sticky_worker", what="the same, as a worker ends", status=1, says="broken:"),
    Fault(name="hang", what="a device that hangs", status=1, says="hangs:"),
    Fault(name="compiler", what="no compiler: runs uncompiled", environment=_NO_COMPILER),
    Fault(name="noexec", what="a cache on a noexec mount: runs uncompiled"),
    Fault(name="undumpable", what="a user without rights, PR_SET_DUMPABLE 0"),
)


def check(given: Given, report: Report) -> None:
    for fault in FAULTS:
        try_(fault, given, report)


def try_(fault: Fault, given: Given, report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        Path(folder).chmod(0o777)  # one fault runs as another user
        caches = {CACHE: f"{folder}/inductor", TRITON_CACHE: f"{folder}/triton"}
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", fault.program, fault.name, str(given.scratch), folder],
                env=os.environ | caches | dict(fault.environment),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=min(fault.within_s * given.patience, given.left_s),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            report.must(fault.what, met=False, text=f"did not end within {error.timeout:.0f} s")
            return
    said = f"{done.stdout}\n{done.stderr}"
    took_s = time.monotonic() - began
    print(f"--- {fault.name}: {done.returncode} in {took_s:.0f} s\n{said}", flush=True)
    if done.returncode == SKIPPED:
        report.skip(fault.what, last_line(done.stdout))
        return
    met = done.returncode == fault.status and fault.says in said
    ended = f"exit status {done.returncode}" if met else _missed(fault, done.returncode, said)
    report.must(fault.what, met, ended)


def _missed(fault: Fault, status: int, said: str) -> str:
    return f"exit status {status} and not {fault.status}: {last_line(said)}"


def last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.split("\n")) if line.strip()), "nothing")
