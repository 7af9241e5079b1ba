"""Starts each step as a process, keeps the deadline, and judges the outcome.

A GPU's error can end a process, so this one does not use CUDA.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu_check.report import Finding, Verdict, read_findings
from benchmarks.gpu_check.step import FINDINGS, Step
from benchmarks.rig.child import ROOT

# The driver may keep a killed process for a while.
_KILL_WITHIN_S = 10.0
LOG: Final = "gpu-check.log"
"""File with the output of all steps."""
DEADLINE: Final = "the deadline"
CPU_PATIENCE: Final = 4.0
"""Multiplies the limits if there is no GPU: see `Given.patience`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    step: str
    verdict: Verdict
    seconds: float = 0.0
    why: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a step's process ended."""

    status: int
    """Below zero: ended by this signal."""
    seconds: float
    cut_by: str = ""
    """What ended it early: its limit or the deadline."""
    last_line: str = ""
    """The last line that it printed."""


def run_steps(
    steps: Iterable[Step], *, out: Path, scratch: Path, ends_at: float, has_gpu: bool
) -> Iterator[Result]:
    """Yields each result as soon as it is known. `ends_at` is by `time.time`."""
    for step in steps:
        left_s = ends_at - time.time()
        if not has_gpu and not step.on_cpu:
            result = Result(step=step.name, verdict="SKIP", why="this machine has no GPU")
        elif step.estimate_s > left_s:
            why = f"it takes about {step.estimate_s:.0f} s, and {max(0, left_s):.0f} s are left"
            result = Result(step=step.name, verdict="SKIP", why=why)
        else:
            _append(out, {"began": step.name})
            ended = _run(step, out, scratch, ends_at, 1.0 if has_gpu else CPU_PATIENCE)
            result = judge(step, ended, read_findings(out / FINDINGS, step.name))
        _append(out, {"step": step.name, "verdict": result.verdict, "seconds": result.seconds,
                      "why": result.why})  # fmt: skip
        yield result


def judge(step: Step, ended: Ended, findings: list[Finding]) -> Result:
    """FAIL if a mark was missed, or if the process did not run to its end or found nothing; SKIP if
    nothing could be tried.
    """
    verdict: Verdict = "PASS"
    why = ""
    if any(finding.verdict == "FAIL" for finding in findings):
        verdict = "FAIL"
    if ended.cut_by:
        why = f"ended after {ended.seconds:.0f} s by {ended.cut_by}"
        cut = step.may_be_cut and ended.cut_by == DEADLINE
        verdict = verdict if cut and findings else "SKIP" if cut else "FAIL"
    elif ended.status:
        verdict = "FAIL"
        why = f"{_how(ended.status)}: {ended.last_line}"
    elif not findings:
        verdict, why = "FAIL", "it found nothing"
    elif all(finding.verdict == "SKIP" for finding in findings):
        verdict = "SKIP"
    return Result(
        step=step.name,
        verdict=verdict,
        seconds=ended.seconds,
        why=why,
        findings=tuple(findings),
    )


def _run(step: Step, out: Path, scratch: Path, ends_at: float, patience: float) -> Ended:
    began = time.time()
    until = min(ends_at, began + step.limit_s * patience)
    command = [
        sys.executable, "-m", "benchmarks.gpu_check.child", step.name, step.check,
        "--out", str(out), "--scratch", str(scratch), "--ends-at", str(until),
        "--patience", str(patience),
    ]  # fmt: skip
    with (out / LOG).open("ab") as log:
        log.write(f"\n=== {step.name}\n".encode())
        log.flush()
        begins_at = log.tell()
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all its children
        )
        cut_by = ""
        try:
            process.wait(max(0.0, until - time.time()))
        except subprocess.TimeoutExpired:
            cut_by = DEADLINE if until == ends_at else f"its limit of {until - began:.0f} s"
        finally:
            _kill(process)
    return Ended(
        status=process.returncode or 0,
        seconds=round(time.time() - began, 1),
        cut_by=cut_by,
        last_line=_last_line(out / LOG, begins_at),
    )


def _path() -> str:
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*([given] if given else []), str(ROOT)])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the whole process group; the step may have ended before its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_WITHIN_S)


def _how(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _last_line(log: Path, begins_at: int) -> str:
    with log.open("rb") as file:
        file.seek(begins_at)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _append(out: Path, line: dict[str, object]) -> None:
    with (out / FINDINGS).open("a") as file:
        file.write(f"{json.dumps(line)}\n")
