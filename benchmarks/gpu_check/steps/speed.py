"""Step 6: measures images/s without a compiler, beside torchvision's network and timm's.

All run in one process, in turn, round by round. Ours copies pixels from pinned memory and answers
back to the CPU; the others have their pixels on the GPU already.
"""

from __future__ import annotations

import gc
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch

from benchmarks.gpu_check import network, timing
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from benchmarks.gpu_check.steps.environment import COPY, H200_COPY_TB_S
from benchmarks.gpu_check.timing import Batches, Calling, Serving
from benchmarks.model import contenders

SIZES: Final = (1, 32, 256)
LARGEST: Final = 256
# Images/s with the largest batch on an H200: the minimum, and half of the roofline
# (benchmarks/model/roofline.py).
FIRST_MARK, GOAL = 12_000.0, 17_500.0


def check(given: Given, report: Report) -> None:
    scale = _scale(given)
    if scale < 1:
        report.note("marks are those of an H200, times", scale)
    compared: dict[str, tuple[Batches, int]] = {}
    for size in SIZES:
        torch.cuda.reset_peak_memory_stats()
        classifier = network.load_for(given.scratch, size, engine="eager")
        compared[f"ours at {size}"] = (Serving(classifier, network.batch_of(size)), size)
        report.note(f"peak memory at {size}", torch.cuda.max_memory_allocated() / 2**30, "GiB")
    for name, contender in (("torchvision", contenders.eager_amp), ("timm", contenders.timm_amp)):
        if find_spec(name) is None:
            report.skip(name, "not installed")
            continue
        run = contender(given.scratch, network.batch_of(LARGEST))
        compared[f"{name}, eager, AMP NHWC at {LARGEST}"] = (Calling(run), LARGEST)
    rates = timing.in_rounds(compared)
    for name, found in rates.items():
        report.note(name, **timing.told(found))
    ours = float(np.median(rates[f"ours at {LARGEST}"]))
    report.at_least(f"ours at {LARGEST}, first mark", ours, FIRST_MARK * scale, "images/s")
    reached = "reached" if ours >= GOAL * scale else "not reached"
    report.note(f"goal of {GOAL * scale:,.0f} images/s", text=reached)
    del compared, classifier
    gc.collect()


def _scale(given: Given) -> float:
    """The factor for the marks, by the GPU's memory speed, which bounds the network."""
    copied = given.earlier("environment", COPY)
    return 1.0 if copied is None else min(1.0, copied / H200_COPY_TB_S)
