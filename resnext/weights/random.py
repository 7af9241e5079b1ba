"""Random weights without training. Their answers mean nothing, but they test everything else.

`load_classifier` uses them only if `random` is requested. A ResNeXt with plain random weights
overflows fp16 and answers every picture alike, so this one is calibrated:

- each batch-norm takes its mean and variance from a few synthetic pictures, layer after layer in
  one pass, so that every activation is near unit size;
- the last batch-norm of each block is scaled down, so that a picture's own features survive the 23
  blocks of a stage, and rounding errors do not grow with the blocks;
- the last layer is centred and scaled on the same pictures, so that scores differ between pictures
  and the best of 1000 stands out.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from resnext.network import Bottleneck, ResNeXt
from resnext.picture.preprocess import Preprocessing
from resnext.spec.model import ModelSpec
from resnext.weights.file import recipe_digest

# Increase this whenever the same seed would give other weights.
RECIPE_VERSION: Final = 1
SEED: Final = 20200821

# Enough for the statistics: even the last stage has 49 places in each picture.
PICTURES: Final = 8
# At 0.1 the errors of bf16 reach 2% of the scores, at 0.25 5%. At 1 they exceed the scores.
BLOCK_GAIN: Final = 0.1
# The deviation of the synthetic pictures' scores before softmax. Photographs differ less from each
# other: theirs then have 2 to 4, and the best of 1000 classes gets a tenth or more.
LOGIT_STD: Final = 4.0
# All octaves of a photograph are about equally strong. The synthetic pictures range from grainier
# to smoother than that, so photographs are within the calibrated range.
SLOPES: Final = (0.1, 0.8)


def draw_weights(network: ResNeXt, spec: ModelSpec, seed: int = SEED) -> str:
    """Fills a network with random weights in a few seconds. The same seed gives the same weights.

    Returns:
        64 hex digits that identify the recipe.
    """
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _draw(network, generator)
    calibrate(network, synthetic_pictures(PICTURES, spec.preprocessing, generator))
    return recipe_digest({"recipe": RECIPE_VERSION, "model": spec.name, "seed": seed})


def _draw(network: ResNeXt, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(BLOCK_GAIN)


def synthetic_pictures(n: int, preprocessing: Preprocessing, generator: torch.Generator) -> Tensor:
    """Makes coloured noise of many sizes, some grainy and some smooth. One half has no edges, like
    clouds; the other half consists of squares, like objects.

    Returns:
        (n, 3, crop, crop) float32, normalised like the network's pictures; n is even.
    """
    crop = preprocessing.crop
    slopes = torch.linspace(*SLOPES, n // 2).repeat(2).view(n, 1, 1, 1)
    pictures = torch.zeros(n, 3, crop, crop)
    for octave in range(crop.bit_length()):
        cells = 2**octave
        grid = _coloured_noise(n, cells, generator)
        soft, hard = grid.chunk(2)
        pictures += torch.cat([_smooth(soft, crop), _squares(hard, crop)]) * cells**-slopes
    return normalise(pictures.sigmoid(), preprocessing)


def normalise(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(n, 3, H, W) float32 in 0 … 1 → the same shape, normalised for the network."""
    mean, std = (
        torch.tensor(c, device=pictures.device).view(3, 1, 1)
        for c in (preprocessing.mean, preprocessing.std)
    )
    return (pictures - mean) / std


def _coloured_noise(n: int, cells: int, generator: torch.Generator) -> Tensor:
    """Noise, mostly light and dark with some colour: (n, 3, cells, cells) near unit size."""
    light = torch.randn(n, 1, cells, cells, generator=generator)
    return 0.8 * light + 0.6 * torch.randn(n, 3, cells, cells, generator=generator)


def _smooth(grid: Tensor, side: int) -> Tensor:
    return functional.interpolate(grid, (side, side), mode="bilinear", align_corners=False)


def _squares(grid: Tensor, side: int) -> Tensor:
    cell = torch.arange(side) * grid.shape[-1] // side
    return grid[:, :, cell][:, :, :, cell]


@torch.no_grad()
def calibrate(network: ResNeXt, pictures: Tensor) -> None:
    """Calibrates the batch-norms and the last layer of a network with random weights.

    In training mode with momentum None, a batch-norm keeps the plain mean and variance of its
    input, and normalises with them. So one pass calibrates all layers.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    network.train()
    features = _features(network, pictures)
    network.eval()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    _calibrate_last_layer(network.fc, features)


def _features(network: ResNeXt, pictures: Tensor) -> Tensor:
    """(n, 3, crop, crop) → (n, channels): the input of the last layer."""
    seen: list[Tensor] = []
    hook = network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(pictures.contiguous(memory_format=torch.channels_last))
    hook.remove()
    return seen[0]


def _calibrate_last_layer(fc: nn.Linear, features: Tensor) -> None:
    """Centres the last layer: the pictures' mean feature gets the score 0 for every class."""
    mean = features.mean(dim=0)
    spread = functional.linear(features - mean, fc.weight).std()
    fc.weight.mul_(LOGIT_STD / spread)
    fc.bias.copy_(-(fc.weight @ mean))
