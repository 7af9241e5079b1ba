"""Step 9: compares ours with torchvision's network under `torch.compile(mode="max-autotune")`.

Each size has its own processes, because each compiles for itself. The largest size comes first.
Sizes for which there is no time before the deadline are skipped.
"""

from __future__ import annotations

from typing import Final

from benchmarks.gpu_check.measured import NotMeasuredError, TooLateError, compile_in, measure
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given

SIZES: Final = (256, 32, 1)
# A smaller size takes at least this share of the previous size's time: it has a little less to
# tune.
_LEAST_SHARE: Final = 0.8


def check(given: Given, report: Report) -> None:
    compile_in(given)
    before_s = 0.0
    for size in SIZES:
        began_with_s = given.left_s
        if before_s * _LEAST_SHARE > began_with_s:
            why_not = f"{began_with_s:.0f} s are left, and the last size took {before_s:.0f} s"
            report.skip(f"at {size}", why_not)
            continue
        try:
            ours = measure("auto", size, given)
            theirs = measure("rival", size, given)
        except TooLateError as why:
            report.skip(f"at {size}", str(why))
            return
        except NotMeasuredError as why:
            report.must(f"at {size}", met=False, text=str(why))
            continue
        before_s = began_with_s - given.left_s
        for whose, found in (("ours", ours), ("rival", theirs)):
            ready = f"images/s, ready in {found.ready_s:.0f} s"
            report.note(f"{whose} at {size}", found.images_s, ready)
        report.at_least(f"ours to the rival at {size}", ours.images_s / theirs.images_s, 1.0)
