"""Normalises pixels on a GPU in two passes over memory instead of five, with the same bits.

`ChosenNetwork` starts with it. The formula is that of torchvision's ToTensor and Normalize, with
each step rounded to float32: (pixel / 255 - mean) / std.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from resnext.run.faults import first_line, is_broken

logger = logging.getLogger(__name__)


class FivePasses(nn.Module):
    """(N, side, side, 3) uint8 → (N, 3, side, side), channels last."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        normal = ((pixels.float() / 255.0) - self.mean) / self.std
        return normal.to(self.dtype).permute(0, 3, 1, 2)


class TwoPasses(FivePasses):
    """The same in two passes: one operator divides and adds, and another divides and rounds to the
    output type.
    """

    minus_mean: Tensor
    white: Tensor

    def __init__(self, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
        super().__init__(mean, std, dtype)
        # A tensor, because for a number CUDA multiplies with the reciprocal, which rounds twice.
        self.register_buffer("white", torch.full_like(mean, 255.0))
        self.register_buffer("minus_mean", -mean)

    def forward(self, pixels: Tensor) -> Tensor:
        shifted = torch.addcdiv(self.minus_mean, pixels, self.white)
        normal = torch.empty(pixels.shape, dtype=self.dtype, device=pixels.device)
        return torch.div(shifted, self.std, out=normal).permute(0, 3, 1, 2)


def choose_normalising(mean: Tensor, std: Tensor, dtype: torch.dtype) -> FivePasses:
    """Chooses two passes if they give the right bits for each value that a pixel can have.

    Args:
        mean: (3,) float32, on the device that will compute.
        std: like `mean`.
        dtype: the output type.
    """
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    expected = FivePasses(mean.cpu(), std.cpu(), dtype)(every)
    few = TwoPasses(mean, std, dtype)
    try:
        found = few(every.to(mean.device)).cpu()
        if torch.equal(found, expected):
            return few
        why = "the bits differ"
    except RuntimeError as error:
        if is_broken(error):
            raise
        why = first_line(error)
    logger.warning("Pixels are normalised in five passes instead of two: %s", why)
    return FivePasses(mean, std, dtype)
