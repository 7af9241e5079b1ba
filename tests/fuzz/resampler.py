"""Fuzzes the C resampler under sanitizers; `make fuzz` runs it before it fuzzes the decoders.

    python -m tests.fuzz.resampler --minutes 3 [--seed N [--cases 1]]

Each case is made from a number (`tests.pictures.resampling`). If a sanitizer finds something or a
result differs from Pillow's, the run prints the command that replays the case, and exits with
status 1. If the compiler has no sanitizers, the run says so and only checks the results.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.pictures.resampling import run_case
from tests.pictures.sanitized import NoSanitizersError, Run, build, run

MOST_CASES = 2**31


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=3)
    arguments.add_argument("--seed", type=int, help="number of the first case; default: random")
    arguments.add_argument("--cases", type=int, default=MOST_CASES, help="the most cases to run")
    chosen = arguments.parse_args()
    seed = random.randrange(2**40) if chosen.seed is None else chosen.seed
    with tempfile.TemporaryDirectory() as folder:
        try:
            sanitized = build(Path(folder))
        except NoSanitizersError as error:
            print(f"The resampler runs without sanitizers: {error}", flush=True)
            done = run_here(seed, chosen.cases, 60 * chosen.minutes)
        else:
            done = run(sanitized, seed=seed, cases=chosen.cases, seconds=60 * chosen.minutes)
    print(f"The resampler: {done.cases:,} cases from {seed} on")
    if done.status == 0:
        return 0
    replay = f"{sys.executable} -m tests.fuzz.resampler --seed {done.last_seed} --cases 1"
    print(f"{done.output}\nfound: case {done.last_seed}\n  replay: {replay}")
    return 1


def run_here(seed: int, cases: int, seconds: float) -> Run:
    ends_at = time.monotonic() + seconds
    case = seed
    while case < seed + cases and time.monotonic() < ends_at:
        try:
            run_case(case)
        except AssertionError as error:
            return Run(1, case - seed + 1, case, repr(error))
        case += 1
    return Run(0, case - seed, case, "")


if __name__ == "__main__":
    sys.exit(main())
