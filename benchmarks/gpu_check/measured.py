"""Measures one way to run the network in its own process, for one batch size.

`measure` starts `python -m benchmarks.gpu_check.measured NAME SIZE SCRATCH`, which prints its
result as its last line. A compiling engine is best alone in its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.gpu_check.step import Given, die_with_parent
from resnext.run.compiler import CACHE, TRITON_CACHE

_RIVAL: Final = "rival"
# Ends a measurement this long before the step itself is ended.
_REPORT_S: Final = 2.0


class NotMeasuredError(Exception):
    """The process failed."""


class TooLateError(Exception):
    """The step's time ended first."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    ready_s: float
    """Time from the weights' file to the first answers."""
    images_s: float
    """Median of the rounds."""
    l2: float
    """Relative error of its logits, compared with torchvision's in float64."""


def compile_in(given: Given) -> None:
    """Sets caches that are empty at first and shared by the steps of this check."""
    os.environ[CACHE] = str(given.scratch / "inductor")
    os.environ[TRITON_CACHE] = str(given.scratch / "triton")


def measure(name: str, size: int, given: Given) -> Measured:
    """Measures `name`: one of our engines, or `rival`.

    Raises:
        NotMeasuredError: the process failed.
        TooLateError: the step's time ended first.
    """
    command = [sys.executable, "-m", __name__, name, str(size), str(given.scratch)]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            timeout=max(1.0, given.left_s - _REPORT_S),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TooLateError(f"{name} at {size} was not ready in {error.timeout:.0f} s") from error
    if done.returncode:
        raise NotMeasuredError(f"{name} ended with status {done.returncode}; see the log")
    print(done.stdout, flush=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    die_with_parent()
    name, size, scratch = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

    from benchmarks.gpu_check import network, timing
    from benchmarks.gpu_check.steps.exactness import l2
    from benchmarks.gpu_check.timing import Batches, Calling, Serving
    from benchmarks.model import contenders

    pixels = network.batch_of(size)
    network.weights_in(scratch)
    began = time.perf_counter()
    batches: Batches
    if name == _RIVAL:
        run = contenders.compiled_amp(scratch, pixels)
        logits, batches = run(), Calling(run)
    else:
        classifier = network.load_for(scratch, size, engine=name)
        logits, batches = classifier.logits(pixels), Serving(classifier, pixels)
    ready_s = time.perf_counter() - began
    rates = [timing.images_per_s(batches, size) for _ in range(timing.ROUNDS)]
    pictures = min(size, network.DIFFERENT)
    expected = network.reference_logits(scratch, network.DIFFERENT)[:pictures]
    found = Measured(
        ready_s=round(ready_s, 1),
        images_s=float(np.median(rates)),
        l2=l2(logits[:pictures], expected),
    )
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
