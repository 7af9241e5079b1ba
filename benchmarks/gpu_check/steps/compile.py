"""Step 8: how long it takes to compile our network for batches of 256, and its speed then.

It runs twice, in separate processes: with an empty cache, and with the cache of the first run. The
logits come from the compiled network, in a graph.
"""

from __future__ import annotations

from typing import Final

from benchmarks.gpu_check.measured import TooLateError, compile_in, measure
from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given
from benchmarks.gpu_check.steps.exactness import L2
from resnext.run.compiler import missing_for_compiling

BATCH: Final = 256


def check(given: Given, report: Report) -> None:
    compile_in(given)
    if missing := missing_for_compiling("cuda"):
        raise NotHereError("; ".join(missing))
    for cache in ("empty", "kept"):
        try:
            found = measure("compiled", BATCH, given)
        except TooLateError as why:
            report.skip(f"cache {cache}", str(why))
            return
        report.note(f"ready, cache {cache}", found.ready_s, "s")
        report.note(f"compiled at {BATCH}, cache {cache}", found.images_s, "images/s")
        report.at_most(f"compiled, cache {cache}, relative L2", found.l2, L2["fp16"])
