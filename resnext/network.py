"""The network itself: torchvision's ResNet of bottleneck blocks, with a spec's depths and groups.

`weights` and `random_weights` fill it, the classifier prepares it for its device: batch-norm
folded into the convolutions before it, then the body in the precision that is computed in.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, ResNet

from resnext.spec import ModelSpec


def build_network(spec: ModelSpec) -> ResNet:
    """The network in evaluation mode, on the meta device: shapes without memory or values."""
    with torch.device("meta"):
        network = ResNet(
            Bottleneck,
            list(spec.depths),
            num_classes=len(spec.categories),
            groups=spec.cardinality,
            width_per_group=spec.width_per_group,
        )
    return network.eval()


def fold_batch_norms(network: nn.Module) -> None:
    """Puts each batch-norm into the convolution before it: the same function, fewer passes."""
    for parent in network.modules():
        # torchvision registers each batch-norm after its convolution: convN, bnN, and 0, 1 of
        # a downsample.
        for (name, conv), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())


class PoolInFloat32(nn.Module):
    """Mean over height and width, summed in float32 whatever comes in.

    (N, C, H, W) any float → (N, C, 1, 1) float32
    """

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.mean((2, 3), keepdim=True, dtype=torch.float32)


def set_body_dtype(network: ResNet, dtype: torch.dtype) -> None:
    """All but the head in `dtype`, channels last. The head is 0.03% of the work and stays in
    float32, so that no score is rounded to 8 or 11 bits.
    """
    network.avgpool = PoolInFloat32()
    network.to(memory_format=torch.channels_last)
    for name, child in network.named_children():
        if name != "fc":
            child.to(dtype)
