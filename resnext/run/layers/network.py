"""A network on a GPU that computes each layer in the fastest way.

`engine.choose_layers` makes it from a folded network. The ways are chosen when a size of batch
first arrives, which is in `warm_up`, before the runner captures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from resnext.network import Bottleneck, ResNeXt
from resnext.run.layers.choice import Choice
from resnext.run.layers.choose import Chooser
from resnext.run.layers.kind import Kind, Run
from resnext.run.layers.shape import ConvShape, shape_of


def shapes_of(network: ResNeXt, crop: int) -> dict[nn.Conv2d, ConvShape]:
    """The shape of each convolution, for pictures of `crop` times `crop` pixels. The network may be
    on the meta device.
    """
    shapes = {network.conv1: shape_of(network.conv1, crop, "relu")}
    side = shapes[network.conv1].out_side
    side = network.maxpool(torch.empty(1, 1, side, side, device="meta")).shape[-1]
    for block in blocks_of(network):
        shapes[block.conv1] = shape_of(block.conv1, side, "relu")
        shapes[block.conv2] = shape_of(block.conv2, side, "relu")
        if (conv := around_of(block)) is not None:
            shapes[conv] = shape_of(conv, side, "nothing")
        side = shapes[block.conv2].out_side
        shapes[block.conv3] = shape_of(block.conv3, side, "add_relu")
    return shapes


def count_shapes(network: ResNeXt, crop: int) -> dict[ConvShape, int]:
    """How often each shape occurs, in the order of the network."""
    counts: dict[ConvShape, int] = {}
    for shape in shapes_of(network, crop).values():
        counts[shape] = counts.get(shape, 0) + 1
    return counts


def blocks_of(network: ResNeXt) -> list[Bottleneck]:
    return [block for name in network.stage_names for block in getattr(network, name)]


def around_of(block: Bottleneck) -> nn.Conv2d | None:
    """The convolution in a block's shortcut, if there is one."""
    if not isinstance(block.downsample, nn.Sequential):
        return None
    conv = block.downsample[0]
    assert isinstance(conv, nn.Conv2d)  # noqa: S101  (the batch-norm comes after it)
    return conv


class ChosenConv(nn.Module):
    """A convolution and what follows it, computed in one way for each size of batch."""

    def __init__(self, conv: nn.Conv2d, shape: ConvShape, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = shape
        self.weight = conv.weight
        self.register_buffer("bias", bias)
        self._built: dict[str, Run] = {}
        self._runs: dict[int, Run] = {}

    bias: Tensor | None

    def use(self, kind: Kind, images: int) -> None:
        if kind.name not in self._built:
            self._built[kind.name] = kind.build(self.shape, self.weight, self.bias)
        self._runs[images] = self._built[kind.name]

    def forward(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        return self._runs[len(x)](x, around)


class ChosenBottleneck(nn.Module):
    """The same function as the given block. It may overwrite its input, so no other code may keep
    the input.
    """

    def __init__(self, block: Bottleneck, shapes: Mapping[nn.Conv2d, ConvShape]) -> None:
        super().__init__()
        total = block.conv3.bias
        self.downsample: ChosenConv | None = None
        if (conv := around_of(block)) is not None:
            assert total is not None  # noqa: S101  (from the folded batch-norms)
            assert conv.bias is not None  # noqa: S101
            # One bias for both, because their results are added. So the shortcut needs no pass.
            total = (total.float() + conv.bias.float()).to(total.dtype)
            self.downsample = ChosenConv(conv, shapes[conv], None)
        self.conv1 = ChosenConv(block.conv1, shapes[block.conv1], block.conv1.bias)
        self.conv2 = ChosenConv(block.conv2, shapes[block.conv2], block.conv2.bias)
        self.conv3 = ChosenConv(block.conv3, shapes[block.conv3], total)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        around = x if self.downsample is None else self.downsample(x)
        made: Tensor = self.conv3(inner, around)
        return made


class ChosenNetwork(nn.Module):
    """(N, crop, crop, 3) uint8 → (N, classes) float32.

    It cannot be moved to another device.
    """

    def __init__(
        self,
        network: ResNeXt,
        normalise: nn.Module,
        crop: int,
        make_chooser: Callable[[Mapping[ConvShape, int]], Chooser],
    ) -> None:
        """
        Args:
            network: the network with folded batch-norms, in its type and layout, on its device.
            normalise: (N, crop, crop, 3) uint8 → the network's input.
            crop: in pixels.
            make_chooser: makes the chooser from the number of times each shape occurs.
        """
        super().__init__()
        shapes = shapes_of(network, crop)
        self.chooser = make_chooser(count_shapes(network, crop))
        self.normalise = normalise
        self.stem = ChosenConv(network.conv1, shapes[network.conv1], network.conv1.bias)
        self.maxpool = network.maxpool
        self.blocks = nn.Sequential(
            *(ChosenBottleneck(block, shapes) for block in blocks_of(network))
        )
        self.avgpool = network.avgpool
        self.fc = network.fc
        self._ready = set[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) not in self._ready:
            self.choose(len(pixels))
        x = self.maxpool(self.stem(self.normalise(pixels)))
        logits: Tensor = self.fc(self.avgpool(self.blocks(x)).flatten(1))
        return logits.float()

    @torch.inference_mode()
    def choose(self, images: int) -> list[Choice]:
        """Decides how batches of this size are computed, and returns why.

        Raises:
            torch.OutOfMemoryError, RuntimeError: see `Chooser.choose`.
        """
        choices = self.chooser.choose(images)
        kinds = {choice.shape: self.chooser.kind_of(choice) for choice in choices}
        for part in self.modules():
            if isinstance(part, ChosenConv):
                part.use(kinds[part.shape], images)
        self._ready.add(images)
        return choices
