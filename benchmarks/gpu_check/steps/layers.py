"""Step 4: times each convolution of the network with each way to compute it; adds up the best ways.

The classifier itself measures them, see `resnext.run.layers`. This step says how far each one is
from the limits of memory and arithmetic, and how many images/s the best ways would give at most.
"""

from __future__ import annotations

from typing import Final

from benchmarks.gpu_check import network
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from benchmarks.gpu_check.steps.environment import (
    COPY,
    H200_COPY_TB_S,
    H200_PRODUCT_TFLOP_S,
    PRODUCT,
)
from resnext.run.layers.choice import Candidate, Choice
from resnext.run.layers.shape import ConvShape

BATCH: Final = 256
_BYTES: Final = 2  # per number in fp16


def check(given: Given, report: Report) -> None:
    classifier = network.load(given.scratch, engine="eager", batch_images=BATCH)
    choices = [one for one in classifier.layer_choices(BATCH) if one.shape is not None]
    copy = given.earlier("environment", COPY) or H200_COPY_TB_S
    product = given.earlier("environment", PRODUCT) or H200_PRODUCT_TFLOP_S
    judge(choices, report, copy_tb_s=copy, product_tflop_s=product)


def judge(
    choices: list[Choice], report: Report, *, copy_tb_s: float, product_tflop_s: float
) -> None:
    """Reports the choice for each layer; the two rates determine a layer's floor."""
    report.at_least("kinds of layers", len(choices), 1)
    wrong = [
        f"{one.subject} by {candidate.name}: {candidate.fault}"
        for one in choices
        for candidate in one.candidates
        if (candidate.fault or "").startswith("wrong")
    ]
    report.must("no way gives wrong answers", not wrong, "; ".join(wrong))
    best_s = floor_s = 0.0
    for one in choices:
        assert one.shape is not None
        assert one.chosen is not None
        floor = floor_of(one.shape, one.images, copy_tb_s, product_tflop_s)
        best = one.chosen.seconds or 0.0
        best_s, floor_s = best_s + one.times * best, floor_s + one.times * floor
        report.note(
            f"{one.times}x {one.subject}",
            text=f"{one.chosen.name} {best * 1e6:.0f} µs, at best {floor * 1e6:.0f}",
            details={"ways": dict(map(_described, one.candidates))},
        )
    images = choices[0].images if choices else 0
    if best_s:
        report.note("sum of the best", images / best_s, "images/s")
        report.note("sum of the floors", images / floor_s, "images/s")


def _described(one: Candidate) -> tuple[str, object]:
    if one.fault is not None:
        return one.name, one.fault
    return one.name, {"us": (one.seconds or 0.0) * 1e6, "error": one.error}


def floor_of(shape: ConvShape, images: int, copy_tb_s: float, product_tflop_s: float) -> float:
    """Least seconds for a batch: its memory traffic or its arithmetic, whichever takes longer."""
    weights = shape.out_channels * shape.in_channels // shape.groups * shape.kernel**2
    out = shape.out_channels * shape.out_side**2
    taken = shape.in_channels * shape.side**2 + (out if shape.after == "add_relu" else 0)
    traffic_s = _BYTES * (images * (taken + out) + weights) / (copy_tb_s * 1e12)
    macs = images * shape.out_side**2 * weights
    return max(traffic_s, 2 * macs / (product_tflop_s * 1e12))
