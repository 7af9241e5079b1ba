"""What a way to compute a convolution has to offer.

Each kind is a file of its own beside this one, `make` lists them, and `choose` tries them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from resnext.run.layers.shape import ConvShape

Run = Callable[[Tensor, Tensor | None], Tensor]
"""(N, in_channels, side, side), and the way around where it is added: what comes after ReLU,
(N, out_channels, out_side, out_side). All channels last. It may write over the way around.
"""


class Kind(Protocol):
    @property
    def name(self) -> str: ...

    def suits(self, shape: ConvShape, device: torch.device) -> bool:
        """Whether it may compute such layers here. It may still fail: then it is left out."""

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        """Of a layer.

        Args:
            shape: the layer's.
            weight: (out_channels, in_channels / groups, kernel, kernel), channels last.
            bias: (out_channels,); None where nothing follows the convolution.
        """
