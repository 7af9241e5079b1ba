"""The project's own Triton kernel for grouped 3x3 convolutions, if Triton can compile it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from resnext.run.layers.kind import Run
from resnext.run.layers.shape import ConvShape


class Grouped:
    name = "triton"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:
        of_kernel = (shape.kernel, shape.padding, shape.after) == (3, 1, "relu")
        kernel = _kernel() if of_kernel and shape.groups > 1 else None
        return kernel is not None and bool(kernel.is_supported(device))

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        kernel = _kernel()
        packed = kernel.pack(weight)

        def run(x: Tensor, _: Tensor | None) -> Tensor:
            made: Tensor = kernel.grouped_conv3x3_relu(
                x, packed, bias, stride=shape.stride, groups=shape.groups
            )
            return made

        return run


def _kernel() -> Any:  # noqa: ANN401  (a module, which needs Triton)
    """Returns the kernel's module, or None if Triton is missing."""
    try:
        return import_module("resnext.run.grouped_kernel")
    except ImportError:
        return None
