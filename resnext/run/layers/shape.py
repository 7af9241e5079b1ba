"""The sizes of a convolution, and what follows it. These decide how fast it is.

`network` takes the shapes from a network's layers, and `choose` measures each distinct shape once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

After = Literal["relu", "add_relu", "nothing"]
"""`relu`: bias and ReLU; `add_relu`: bias, shortcut and ReLU; `nothing`: not even a bias."""


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """The shape of a square convolution on square pictures, for any number of them."""

    kernel: int
    in_channels: int
    out_channels: int
    groups: int
    stride: int
    padding: int
    side: int
    """The height and width of the input."""
    after: After

    @property
    def out_side(self) -> int:
        return (self.side + 2 * self.padding - self.kernel) // self.stride + 1

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        after = {"relu": ", relu", "add_relu": ", add, relu", "nothing": ""}[self.after]
        return (
            f"{self.kernel}x{self.kernel}, {self.in_channels} to {self.out_channels} channels"
            f"{groups}, stride {self.stride}, {self.side}x{self.side}{after}"
        )


def shape_of(conv: nn.Conv2d, side: int, after: After) -> ConvShape:
    """The shape of a layer whose input is `side` times `side`."""
    assert isinstance(conv.padding, tuple)  # noqa: S101  (in this network they are numbers)
    return ConvShape(
        kernel=conv.kernel_size[0],
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        groups=conv.groups,
        stride=conv.stride[0],
        padding=conv.padding[0],
        side=side,
        after=after,
    )
