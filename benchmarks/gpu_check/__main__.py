"""The command: runs the requested steps, prints a paragraph per step, and writes the table.

The exit status is 1 if a step fails, 2 if the command line is wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.registry import STEPS, find_steps
from benchmarks.gpu_check.report import read_findings
from benchmarks.gpu_check.runner import run_steps
from benchmarks.gpu_check.step import FINDINGS
from benchmarks.gpu_check.table import markdown, paragraph
from resnext.run.nvidia import list_gpus

DEADLINE_S = 460.0


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.time()
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        steps = find_steps(asked.steps)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # this also ends the step
    asked.out.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        Path(scratch).chmod(0o711)  # so that a step as another user can reach its folder there
        for result in run_steps(
            steps,
            out=asked.out.absolute(),
            scratch=Path(scratch),
            ends_at=began + asked.deadline,
            has_gpu=bool(list_gpus()),
        ):
            print(paragraph(result), flush=True)
            results.append(result)
    if asked.table is not None:
        asked.table.parent.mkdir(parents=True, exist_ok=True)
        asked.table.write_text(markdown(_machine(asked.out), results))
    failed = [result.step for result in results if result.verdict == "FAIL"]
    print(f"FAIL: {', '.join(failed)}" if failed else f"PASS, {time.time() - began:.0f} s in all")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu-check", description="Checks the GPU path on this machine, step by step."
    )
    parser.add_argument(
        "--steps", nargs="+", default=list(STEPS), metavar="STEP",
        help=f"by name, or by number from 0, such as 0-7: {', '.join(STEPS)}; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_S, metavar="SECONDS",
        help=f"all steps end after this time; default: {DEADLINE_S:.0f}",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("build/gpu-check"), metavar="FOLDER",
        help="folder for figures and log; default: build/gpu-check",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a table in Markdown")
    return parser


def _machine(out: Path) -> str:
    """The machine, as the step `environment` has described it."""
    found = read_findings(out / FINDINGS, "environment")
    return next((one.text for one in found if one.what == "machine"), "An unknown machine.")


if __name__ == "__main__":
    sys.exit(main())
