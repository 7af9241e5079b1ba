"""A plain convolution, followed by torch's own operators, each with a pass over memory.

It is the slowest kind, but the most widely used, and all others are checked against it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from resnext.run.layers.kind import Run
from resnext.run.layers.shape import ConvShape


class Passes:
    name = "passes"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:  # noqa: ARG002
        return True

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        def run(x: Tensor, around: Tensor | None) -> Tensor:
            made = functional.conv2d(x, weight, None, shape.stride, shape.padding, 1, shape.groups)
            if bias is not None:
                made += bias.view(1, -1, 1, 1)
            if around is not None:
                made += around
            return made if shape.after == "nothing" else made.relu_()

        return run
