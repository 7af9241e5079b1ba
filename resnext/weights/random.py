"""Weights that are drawn, not trained: they name nothing, and show that everything else works.

`load_classifier` uses them only when they are asked for as `random`. A plainly random
ResNeXt overflows fp16 and answers every picture alike; this one is calibrated:

- each batch-norm takes its mean and variance from a few synthetic pictures, layer after
  layer in one pass, so that every activation is near unit size;
- the last batch-norm of each block is shrunk, so that a picture's own features outlive the
  23 blocks of a stage, and errors of rounding do not grow with them;
- the last layer is centred and scaled on the same pictures, so that scores differ from one
  picture to the next and the best of 1000 stands out.
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

# Raised whenever the same seed would give other weights.
RECIPE_VERSION: Final = 1
SEED: Final = 20200821

# Enough for the statistics: the last stage alone has 49 places in each.
PICTURES: Final = 8
# At 0.25 the errors of bf16 reach 5% of the scores, at 0.1 2%; at 1 they drown them.
BLOCK_GAIN: Final = 0.1
# Of the synthetic pictures' scores before softmax. Photographs differ less from each other:
# theirs then spread by 2 to 4, and the best of 1000 classes gets a tenth or more.
LOGIT_STD: Final = 4.0
# Every octave of a photograph is about as strong as the next; pictures from grainy to smooth
# on both sides of that keep photographs within what the network was calibrated on.
SLOPES: Final = (0.1, 0.8)


def draw_weights(network: ResNeXt, spec: ModelSpec, seed: int = SEED) -> str:
    """Fills a network that has none, in a few seconds; the same seed gives the same weights.

    Returns:
        64 hex digits that name the recipe.
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
    """Coloured noise of many sizes, some grainy and some smooth; one half without edges, like
    clouds, the other of squares, like things.

    Returns:
        (n, 3, crop, crop) float32, normalised as the network's pictures are; n is even.
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
    """(n, 3, H, W) float32 in 0 … 1 → the same, as the network sees them."""
    mean, std = (
        torch.tensor(c, device=pictures.device).view(3, 1, 1)
        for c in (preprocessing.mean, preprocessing.std)
    )
    return (pictures - mean) / std


def _coloured_noise(n: int, cells: int, generator: torch.Generator) -> Tensor:
    """Mostly light and dark, and some colour: (n, 3, cells, cells) near unit size."""
    light = torch.randn(n, 1, cells, cells, generator=generator)
    return 0.8 * light + 0.6 * torch.randn(n, 3, cells, cells, generator=generator)


def _smooth(grid: Tensor, side: int) -> Tensor:
    return functional.interpolate(grid, (side, side), mode="bilinear", align_corners=False)


def _squares(grid: Tensor, side: int) -> Tensor:
    cell = torch.arange(side) * grid.shape[-1] // side
    return grid[:, :, cell][:, :, :, cell]


@torch.no_grad()
def calibrate(network: ResNeXt, pictures: Tensor) -> None:
    """Batch-norms and the last layer of a network whose weights are drawn.

    In training mode with momentum None, batch-norm keeps the plain mean and variance of
    what it sees, and passes on what it has normalised by them: one pass calibrates all.
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
    """(n, 3, crop, crop) → (n, channels): what the last layer gets."""
    seen: list[Tensor] = []
    hook = network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(pictures.contiguous(memory_format=torch.channels_last))
    hook.remove()
    return seen[0]


def _calibrate_last_layer(fc: nn.Linear, features: Tensor) -> None:
    """The pictures' mean feature gets the score 0 for every class."""
    mean = features.mean(dim=0)
    spread = functional.linear(features - mean, fc.weight).std()
    fc.weight.mul_(LOGIT_STD / spread)
    fc.bias.copy_(-(fc.weight @ mean))
