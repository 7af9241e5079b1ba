"""Convolutions that include the following ReLU and addition, on a CPU, without a compiler.

`engine` puts them into a network with folded batch-norms. They are the operators that
`torch.compile` itself emits for oneDNN (`torch/_inductor/fx_passes/mkldnn_fusion.py`). With them,
the activations of a block are written once instead of three times.

In bf16 on a CPU with AMX the weights are packed once for oneDNN, which would otherwise pack them in
each call. One layout then fits every number of pictures. In float32 the weights stay unpacked:
oneDNN would rearrange packed weights in each call with another size, which costs more than the
layer.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from resnext.network import Bottleneck, ResNeXt
from resnext.run.precision import has_amx

_NO_SCALARS: Final[list[float]] = []
# The number of pictures in a stream's call.
_PACKED_FOR: Final = 8


def are_fused_convolutions_there() -> bool:
    """Whether this build of torch has the operators, which are not a public interface."""
    return bool(torch.backends.mkldnn.is_available()) and all(
        hasattr(torch.ops.mkldnn, name)
        for name in (
            "_convolution_pointwise",
            "_convolution_pointwise_",
            "_reorder_convolution_weight",
        )
    )


def fuse_convolutions(network: ResNeXt, crop: int) -> None:
    """Replaces the stem and the blocks. Batch-norms must be folded, and types and layout final.

    Args:
        network: the network, which this changes.
        crop: the height and width of a picture, in pixels.
    """
    stem = FusedConv(network.conv1, crop, activation="relu")
    size = stem.size_out
    if isinstance(network.maxpool, nn.MaxPool2d):
        size = (size + 1) // 2
    network.conv1 = stem  # type: ignore[assignment]
    network.relu = nn.Identity()  # type: ignore[assignment]
    for name in network.stage_names:
        blocks = []
        for block in getattr(network, name):
            blocks.append(FusedBottleneck(block, size))
            size = blocks[-1].conv2.size_out
        setattr(network, name, nn.Sequential(*blocks))


class FusedConv(nn.Module):
    """A convolution and what follows it, as one operator.

    (N, in_channels, H, W) → (N, out_channels, H / stride, W / stride); H and W are `size`.
    """

    def __init__(self, conv: nn.Conv2d, size: int, *, activation: str) -> None:
        super().__init__()
        assert conv.bias is not None  # noqa: S101  (from the folded batch-norm)
        self.bias = conv.bias
        self._activation = activation
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight: Tensor = conv.weight
        if weight.dtype == torch.bfloat16 and has_amx():
            weight = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
                weight, *self._geometry, [_PACKED_FOR, conv.in_channels, size, size]
            )
        self._weight = weight
        # The overloads themselves, so that calls need not search for them.
        self._convolve = torch.ops.mkldnn._convolution_pointwise.default  # noqa: SLF001
        self._convolve_into = torch.ops.mkldnn._convolution_pointwise_.binary
        padded = size + 2 * int(conv.padding[0])
        self.size_out = (padded - conv.kernel_size[0]) // conv.stride[0] + 1

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._convolve(
            x, self._weight, self.bias, *self._geometry, self._activation, _NO_SCALARS, ""
        )
        return made

    def add_into(self, total: Tensor, x: Tensor) -> Tensor:
        """relu(total + conv(x)), written over `total`."""
        made: Tensor = self._convolve_into(
            total, x, self._weight, self.bias, *self._geometry, "add", 1.0, "relu", _NO_SCALARS, ""
        )
        return made


class FusedBottleneck(nn.Module):
    """The same function as the given block. It overwrites its input if that is the shortcut, so no
    other code may keep the input.
    """

    def __init__(self, block: Bottleneck, size: int) -> None:
        super().__init__()
        self.conv1 = FusedConv(block.conv1, size, activation="relu")
        self.conv2 = FusedConv(block.conv2, size, activation="relu")
        self.conv3 = FusedConv(block.conv3, self.conv2.size_out, activation="none")
        self.downsample: FusedConv | None = None
        if isinstance(block.downsample, nn.Sequential):
            convolution = block.downsample[0]
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101  (then a folded batch-norm)
            self.downsample = FusedConv(convolution, size, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        around = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_into(around, inner)
