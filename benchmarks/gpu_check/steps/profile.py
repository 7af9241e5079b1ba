"""Step 5: where a batch spends its time on the GPU: the kernels in one replay of its graph."""

from __future__ import annotations

import time
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check import network
from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given

BATCH: Final = 256
_SHOWN: Final = 15


def check(given: Given, report: Report) -> None:
    classifier = network.load_for(given.scratch, BATCH, engine="eager")
    runner = classifier._runner
    graph, _ = runner._lanes[0].graphs[BATCH]  # type: ignore[attr-defined]
    stream = runner._computing  # type: ignore[attr-defined]

    def replay() -> None:
        with torch.cuda.stream(stream):
            graph.replay()
        stream.synchronize()

    replay()
    began = time.perf_counter()
    replay()
    wall_us = (time.perf_counter() - began) * 1e6
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        replay()
    kernels = [one for one in seen.key_averages() if _microseconds(one) > 0]
    if not kernels:
        raise NotHereError("torch's profiler saw no kernel on this machine")
    kernels.sort(key=_microseconds, reverse=True)
    total_us = sum(map(_microseconds, kernels))
    report.note("kernels", sum(one.count for one in kernels))
    report.note("they take", total_us, "µs")
    report.note("a replay takes", wall_us, "µs")
    for one in kernels[:_SHOWN]:
        share = _microseconds(one) / total_us
        name = one.key if len(one.key) <= 60 else f"{one.key[:57]}..."
        report.note(f"{share:.0%} {one.count}x", text=name, details={"kernel": one.key,
                    "us": _microseconds(one)})  # fmt: skip


def _microseconds(event: Any) -> float:
    return float(event.self_device_time_total)
