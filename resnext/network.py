"""The network: a ResNeXt of bottleneck blocks, built from a spec.

`resnext.weights` fills it. The classifier prepares it for its device: it folds the batch-norms into
the convolutions before them, and converts the body to the precision of the device. Parameters have
torchvision's names, as in NVIDIA's and timm's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from resnext.spec.model import ModelSpec, Stem

_STEMS: Final[Mapping[Stem, tuple[int, int]]] = {
    "imagenet": (7, 2),
    "tiny_imagenet": (3, 2),
    "cifar": (3, 1),
}
"""The kernel size and stride of each stem's convolution."""


class Bottleneck(nn.Module):
    """A block: 1x1, grouped 3x3 with the stride, and 1x1 convolutions, with a shortcut.

    (N, in_channels, H, W) → (N, out_channels, H / stride, W / stride)

    Xie et al., Aggregated Residual Transformations for Deep Neural Networks, 2017, figure 3(c).
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, groups: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        made: Tensor = self.relu(self.bn3(self.conv3(x)) + around)
        return made


class ResNeXt(nn.Module):
    """(N, 3, crop, crop) float, normalised → (N, classes) logits."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        stem = spec.stem_channels
        size, stride = _STEMS[spec.stem]
        self.conv1 = nn.Conv2d(3, stem, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if spec.stem == "imagenet" else nn.Identity()
        self.stage_names = [f"layer{n}" for n in range(1, len(spec.depths) + 1)]
        channels = stem
        for n, name in enumerate(self.stage_names):
            setattr(self, name, _stage(spec, n, channels))
            channels = spec.stage_channels[n]
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, len(spec.categories))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(spec: ModelSpec, n: int, in_channels: int) -> nn.Sequential:
    """The blocks of stage n. Every stage except the first halves height and width."""
    out_channels = spec.stage_channels[n]
    width = spec.cardinality * spec.width_per_group * 2**n
    return nn.Sequential(
        *(
            Bottleneck(
                in_channels if block == 0 else out_channels,
                width,
                out_channels,
                groups=spec.cardinality,
                stride=2 if n and not block else 1,
            )
            for block in range(spec.depths[n])
        )
    )


def build_network(spec: ModelSpec) -> ResNeXt:
    """Returns the network in evaluation mode, on the meta device: shapes without memory."""
    with torch.device("meta"):
        network = ResNeXt(spec)
    return network.eval()


def fold_batch_norms(network: nn.Module) -> None:
    """Folds each batch-norm into the convolution before it. The function is the same."""
    for parent in network.modules():
        # Each batch-norm is registered right after its convolution: convN, bnN, or 0, 1 in a
        # downsample.
        for (name, conv), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())


class PoolInFloat32(nn.Module):
    """The mean over height and width, summed in float32 for any input type.

    (N, C, H, W) any float → (N, C, 1, 1) float32
    """

    def forward(self, activations: Tensor) -> Tensor:
        return activations.mean((2, 3), keepdim=True, dtype=torch.float32)


def set_body_dtype(network: ResNeXt, dtype: torch.dtype) -> None:
    """Converts everything except the head to `dtype`, channels last. The head is 0.03% of the work,
    and stays in float32 so that scores are not rounded to 8 or 11 bits.
    """
    network.avgpool = PoolInFloat32()
    network.to(memory_format=torch.channels_last)
    for name, child in network.named_children():
        if name != "fc":
            child.to(dtype)
