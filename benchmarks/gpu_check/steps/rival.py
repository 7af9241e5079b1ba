"""Step 9: ours beside torchvision's network under `torch.compile(mode="max-autotune")`.

Each size in processes of its own, as each compiles for itself; the largest first. What the
deadline leaves no time for is skipped.
"""

from __future__ import annotations

import os
from typing import Final

from benchmarks.gpu_check.measured import NotMeasuredError, measure
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from resnext.run.compiler import keep_compiled_in

SIZES: Final = (256, 32, 1)
# Of the time that the size before took: a smaller one has less to tune, but not much less.
_LEAST_SHARE: Final = 0.8


def check(given: Given, report: Report) -> None:
    keep_compiled_in(given.scratch)
    before_s = 0.0
    for size in SIZES:
        began_with_s = given.left_s
        if before_s * _LEAST_SHARE > began_with_s:
            report.skip(
                f"at {size}", f"{began_with_s:.0f} s are left, the last took {before_s:.0f}"
            )
            continue
        try:
            ours = measure("auto", size, given, environment=os.environ)
            theirs = measure("rival", size, given, environment=os.environ)
        except NotMeasuredError as why:
            report.must(f"at {size}", met=False, text=str(why))
            continue
        before_s = began_with_s - given.left_s
        report.note(f"ours at {size}", ours.images_s, f"images/s, ready in {ours.ready_s:.0f} s")
        report.note(
            f"rival at {size}", theirs.images_s, f"images/s, ready in {theirs.ready_s:.0f} s"
        )
        report.at_least(f"ours to the rival at {size}", ours.images_s / theirs.images_s, 1.0)
