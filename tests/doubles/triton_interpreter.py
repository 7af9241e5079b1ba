"""Compares the grouped convolution in Triton's interpreter, on a CPU, with torch's own.

`python -m tests.doubles.triton_interpreter cases|plans|nan` prints its findings as JSON. It runs in
its own process, since Triton decides at import whether to interpret.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    channels: int
    height: int
    width: int
    stride: int = 1
    images: int = 1
    groups: int = 32
    dtype: str = "float16"


CASES = {
    # Layers of the network. Rows of a large map are alike, so a few of them are enough.
    "128 at 56": Case(128, 16, 56),
    "256 at 56, stride 2": Case(256, 16, 56, stride=2),
    "256 at 28": Case(256, 16, 28),
    "512 at 28, stride 2": Case(512, 16, 28, stride=2),
    "512 at 14": Case(512, 14, 14),
    "1024 at 14, stride 2": Case(1024, 14, 14, stride=2),
    # 70 columns; a block has 64.
    "1024 at 7, ten images": Case(1024, 7, 7, images=10),
    # Other crops.
    "odd": Case(128, 9, 13, images=5),
    "odd, stride 2": Case(256, 11, 7, stride=2, images=5),
    "odd height, even width, stride 2": Case(512, 9, 6, stride=2, images=11),
    "one pixel": Case(256, 1, 1, images=3),
    "two by three, stride 2": Case(256, 2, 3, stride=2, images=3),
    "one column": Case(128, 5, 1, images=65),
    # Other groups, and other types.
    "64 groups": Case(256, 6, 5, images=2, groups=64),
    "groups of two": Case(64, 6, 5, images=2),
    "float32": Case(256, 7, 5, images=2, dtype="float32"),
    "float32, stride 2": Case(512, 7, 5, stride=2, images=2, dtype="float32"),
}
PLANS = Case(64, 7, 9, images=9, groups=8)
"""The case for each plan; the rows of a plan do not divide its height."""
ROWS = (1, 3, 7)
STRIDES = (1, 2)


def main(question: str) -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    found: object
    if question == "cases":
        found = {name: error_of(case) for name, case in CASES.items()}
    elif question == "plans":
        found = [errors_of_plans(replace(PLANS, stride=stride)) for stride in STRIDES]
    else:
        found = keeps_nan()
    print(json.dumps(found))  # noqa: T201  (what the test reads)


def error_of(case: Case) -> float:
    from resnext.run.grouped_kernel import grouped_conv3x3_relu, pack

    x, weight, bias = draw(case)
    made = grouped_conv3x3_relu(x, pack(weight), bias, stride=case.stride, groups=case.groups)
    assert made.dtype == x.dtype
    assert made.is_contiguous(memory_format=torch.channels_last)
    return relative_error(made, expected(case, x, weight, bias))


def errors_of_plans(case: Case) -> list[float]:
    """Returns the error of each float16 plan. Checks that memory around the output is untouched."""
    from resnext.run.grouped_kernel import TILINGS, Plan, _Call, pack

    x, weight, bias = draw(case)
    right = expected(case, x, weight, bias)
    errors = []
    for plan in [Plan(tiling, rows) for tiling in TILINGS[x.dtype] for rows in ROWS]:
        around = torch.full((case.images + 2, *right.shape[1:]), -1.0, dtype=x.dtype)
        around = around.contiguous(memory_format=torch.channels_last)
        _Call(x, pack(weight), bias, around[1:-1], case.stride).launch(plan)
        assert (around[0] == -1).all(), plan
        assert (around[-1] == -1).all(), plan
        errors.append(relative_error(around[1:-1], right))
    return errors


def keeps_nan() -> bool:
    """Whether NaN in an image stays in the output, and only in that image."""
    from resnext.run.grouped_kernel import grouped_conv3x3_relu, pack

    x, weight, bias = draw(Case(64, 5, 5, images=2))
    x[0, 3, 2, 2] = float("nan")
    made = grouped_conv3x3_relu(x, pack(weight), bias, stride=1, groups=32)
    return bool(made[0].isnan().any() and not made[1].isnan().any())


def draw(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Draws input, weight and bias such that the outputs have a variance of about 2."""
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(case.images, case.channels, case.height, case.width, generator=generator)
    group = case.channels // case.groups
    weight = torch.randn(case.channels, group, 3, 3, generator=generator) * (9 * group) ** -0.5
    bias = torch.randn(case.channels, generator=generator)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    return x, weight.to(dtype), bias.to(dtype)


def expected(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.conv2d(
        x.float(), weight.float(), bias.float(), case.stride, padding=1, groups=case.groups
    ).relu()


def relative_error(made: Tensor, right: Tensor) -> float:
    assert made.shape == right.shape
    return ((made.float() - right).norm() / right.norm()).item()


if __name__ == "__main__":
    main(sys.argv[1])
