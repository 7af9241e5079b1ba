"""cuDNN's convolution with bias, ReLU and shortcut in one kernel.

It writes each output once, without reading it again. torch has no public function for it, but
these operators have had the same signature from torch 1.13 to 2.15.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from resnext.run.layers.kind import Run
from resnext.run.layers.shape import ConvShape

_CHANNELS: Final = 8
"""The number of 16-bit channels that tensor cores take at once."""


class Cudnn:
    name = "cudnn"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:  # noqa: ARG002
        needed = {"relu": "cudnn_convolution_relu", "add_relu": "cudnn_convolution_add_relu"}
        return shape.after in needed and hasattr(torch, needed[shape.after])

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        stride, padding = (shape.stride,) * 2, (shape.padding,) * 2

        def relu(x: Tensor, _: Tensor | None) -> Tensor:
            return torch.cudnn_convolution_relu(
                x, weight, bias, stride, padding, (1, 1), shape.groups
            )

        def add_relu(x: Tensor, around: Tensor | None) -> Tensor:
            assert around is not None  # noqa: S101  (`add_relu` has one)
            return torch.cudnn_convolution_add_relu(
                x, weight, around, 1.0, bias, stride, padding, (1, 1), shape.groups
            )

        return relu if shape.after == "relu" else add_relu


class PaddedCudnn:
    """The same with additional channels of zeros. It is for the three colours of a picture, because
    tensor cores need eight channels.
    """

    name = "cudnn padded"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:
        is_odd = shape.groups == 1 and shape.in_channels % _CHANNELS > 0
        return is_odd and Cudnn().suits(shape, device)

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        missing = -shape.in_channels % _CHANNELS

        def padded(x: Tensor) -> Tensor:
            more = pad(x, (0, 0, 0, 0, 0, missing))
            return more.contiguous(memory_format=torch.channels_last)  # as it is on a GPU

        wide = replace(shape, in_channels=shape.in_channels + missing)
        run = Cudnn().build(wide, padded(weight), bias)
        return lambda x, around: run(padded(x), around)
