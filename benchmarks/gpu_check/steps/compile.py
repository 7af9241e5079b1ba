"""Step 8: our network compiled and tuned, for batches of 256: how long it takes, and what it gives.

Twice, in processes of their own: with an empty cache, and with what the first has left there. The
logits are those of the compiled network, out of a graph.
"""

from __future__ import annotations

import os
from typing import Final

from benchmarks.gpu_check.measured import measure
from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given
from benchmarks.gpu_check.steps.exactness import L2
from resnext.run.compiler import keep_compiled_in, missing_for_compiling

BATCH: Final = 256


def check(given: Given, report: Report) -> None:
    keep_compiled_in(given.scratch)  # where `rival` finds it as well
    if missing := missing_for_compiling("cuda"):
        raise NotHereError("; ".join(missing))
    for cache in ("empty", "kept"):
        found = measure("compiled", BATCH, given, environment=os.environ)
        report.note(f"ready, cache {cache}", found.ready_s, "s")
    report.note("compiled", found.images_s, f"images/s at {BATCH}")
    report.at_most("compiled, relative L2", found.l2, L2["fp16"])
