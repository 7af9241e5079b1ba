"""The interface of a way to compute a convolution, which is called a kind.

Each kind is in its own file in this folder. `make` lists them, and `choose` tries them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from resnext.run.layers.shape import ConvShape

Run = Callable[[Tensor, Tensor | None], Tensor]
"""(N, in_channels, side, side), and the shortcut if one is added → the output after ReLU,
(N, out_channels, out_side, out_side). All channels last. It may overwrite the shortcut.
"""


class Kind(Protocol):
    @property
    def name(self) -> str: ...

    def suits(self, shape: ConvShape, device: torch.device) -> bool:
        """Whether to try this kind for such layers here. If it fails, it is left out."""

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        """Returns the function that computes a layer.

        Args:
            shape: the layer's shape.
            weight: (out_channels, in_channels / groups, kernel, kernel), channels last.
            bias: (out_channels,); None if nothing follows the convolution.
        """
