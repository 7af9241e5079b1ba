"""A 1x1 convolution as a matrix product with cuBLAS: pixels are rows, channels are columns.

With channels last both are views. cuBLASLt includes bias and ReLU. If there is a shortcut, the
product is added to it in place, and one more pass adds bias and ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnext.run.layers.kind import Run
from resnext.run.layers.one_pass import bias_relu
from resnext.run.layers.shape import ConvShape


class Matrix:
    name = "matrix"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:  # noqa: ARG002
        is_product = shape.kernel == 1 and shape.groups == 1 and shape.padding == 0
        return is_product and (shape.after != "relu" or hasattr(torch, "_addmm_activation"))

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        columns = weight.reshape(shape.out_channels, shape.in_channels).t()

        def rows(x: Tensor) -> Tensor:
            """(N, C, H, W) → (N · H · W, C)"""
            return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])

        def pixels(x: Tensor) -> Tensor:
            return rows(x if shape.stride == 1 else x[:, :, :: shape.stride, :: shape.stride])

        def pictures(made: Tensor) -> Tensor:
            sides = (shape.out_side, shape.out_side, shape.out_channels)
            return made.view(-1, *sides).permute(0, 3, 1, 2)

        def nothing(x: Tensor, _: Tensor | None) -> Tensor:
            return pictures(torch.mm(pixels(x), columns))

        def relu(x: Tensor, _: Tensor | None) -> Tensor:
            assert bias is not None  # noqa: S101  (`relu` has one)
            made = torch._addmm_activation(bias, pixels(x), columns)  # noqa: SLF001  (there is no public one)
            return pictures(made)

        def add_relu(x: Tensor, around: Tensor | None) -> Tensor:
            assert around is not None  # noqa: S101  (`add_relu` has both)
            assert bias is not None  # noqa: S101
            total = rows(around)
            return bias_relu(pictures(torch.addmm(total, pixels(x), columns, out=total)), bias)

        return {"nothing": nothing, "relu": relu, "add_relu": add_relu}[shape.after]
