"""Convolutions that take the ReLU and the addition after them along, on a CPU without a compiler.

`engine` puts them into a network whose batch-norms are folded. They are the operators that
`torch.compile` itself emits for oneDNN (`torch/_inductor/fx_passes/mkldnn_fusion.py`): the
activations of a block are written once instead of three times.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from resnext.network import Bottleneck, ResNeXt

_NO_SCALARS: Final[list[float]] = []


def are_fused_convolutions_there() -> bool:
    """Whether this build of torch has the operators; they are no public interface."""
    return bool(torch.backends.mkldnn.is_available()) and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_convolution_pointwise_")
    )


def fuse_convolutions(network: ResNeXt) -> None:
    """Replaces stem and blocks; batch-norms must be folded, and types and layout final."""
    network.conv1 = FusedConv(network.conv1, activation="relu")  # type: ignore[assignment]
    network.relu = nn.Identity()  # type: ignore[assignment]
    for name in network.stage_names:
        stage = getattr(network, name)
        setattr(network, name, nn.Sequential(*(FusedBottleneck(block) for block in stage)))


class FusedConv(nn.Module):
    """A convolution and what comes after it, as one operator.

    (N, in_channels, H, W) → (N, out_channels, H / stride, W / stride)
    """

    def __init__(self, conv: nn.Conv2d, *, activation: str) -> None:
        super().__init__()
        assert conv.bias is not None  # noqa: S101  (of the batch-norm that is folded)
        self.weight = conv.weight
        self.bias = conv.bias
        self._activation = activation
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  (see above)
            x, self.weight, self.bias, *self._geometry, self._activation, _NO_SCALARS, ""
        )
        return made

    def add_into(self, total: Tensor, x: Tensor) -> Tensor:
        """relu(total + conv(x)), written over `total`."""
        made: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, *self._geometry, "add", 1.0, "relu", _NO_SCALARS, ""
        )
        return made


class FusedBottleneck(nn.Module):
    """The same function as the block that it is made of. Writes over its input where that is
    the way around, so nobody else may keep it.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FusedConv(block.conv1, activation="relu")
        self.conv2 = FusedConv(block.conv2, activation="relu")
        self.conv3 = FusedConv(block.conv3, activation="none")
        self.downsample: FusedConv | None = None
        if isinstance(block.downsample, nn.Sequential):
            convolution = block.downsample[0]
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101  (then a folded batch-norm)
            self.downsample = FusedConv(convolution, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        around = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_into(around, inner)
