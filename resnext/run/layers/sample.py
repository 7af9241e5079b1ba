"""Pictures, weights and right answers, to test a way to compute a layer.

`check` compares a candidate's output with them. They are random and depend only on the layer's
shape, so a measurement is valid for every network with such a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional

from resnext.run.layers.shape import ConvShape

PATTERNS: Final = 2
"""The number of different pictures, which a batch repeats."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample on the device, in the type in which it computes."""

    x: Tensor
    """(images, in_channels, side, side), channels last."""
    around: Tensor | None
    """(images, out_channels, out_side, out_side), channels last."""
    weight: Tensor
    bias: Tensor | None
    expected: Tensor
    """(PATTERNS or 1, out_channels, out_side, out_side) float32, for the first pictures."""


def draw(shape: ConvShape, images: int, dtype: torch.dtype, device: torch.device) -> Sample:
    """Makes a sample. The CPU computes the answers, with another library than the candidates."""
    generator = torch.Generator().manual_seed(crc32(str(shape).encode()))

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, generator=generator) * scale).to(dtype)

    patterns = min(PATTERNS, images)
    inputs = shape.in_channels // shape.groups
    fan_in = inputs * shape.kernel**2
    weight = normal(
        shape.out_channels, inputs, shape.kernel, shape.kernel, scale=1 / math.sqrt(fan_in)
    )
    x = normal(patterns, shape.in_channels, shape.side, shape.side)
    bias = None if shape.after == "nothing" else normal(shape.out_channels)
    around = None
    if shape.after == "add_relu":
        around = normal(patterns, shape.out_channels, shape.out_side, shape.out_side)

    def batch(pictures: Tensor) -> Tensor:
        return _last(pictures.to(device)).repeat(-(-images // patterns), 1, 1, 1)[:images]

    return Sample(
        x=_last(batch(x)),
        around=None if around is None else _last(batch(around)),
        weight=_last(weight.to(device)),
        bias=None if bias is None else bias.to(device),
        expected=_compute(shape, x, around, weight, bias).to(device),
    )


def _compute(
    shape: ConvShape, x: Tensor, around: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    made = functional.conv2d(
        x.float(),
        weight.float(),
        None if bias is None else bias.float(),
        shape.stride,
        shape.padding,
        1,
        shape.groups,
    )
    if around is not None:
        made += around.float()
    return made if shape.after == "nothing" else made.relu_()


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
