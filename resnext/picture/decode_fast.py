"""A faster but inexact way from a JPEG to the pixels that the network sees.

It uses torchvision's decoder and its antialiased resize of tensors. A pixel differs from Pillow's
by up to 2 of 255 (benchmarks/stage/decode.py). It is only used with `RESNEXT_DECODE=fast`, because
it loads torch into each loader.
"""

from __future__ import annotations

from typing import Final

import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import InterpolationMode

from resnext.picture.orientation import UPRIGHT
from resnext.picture.preprocess import LONGEST_IN_CROPS, Preprocessing, resized_size
from resnext.picture.resample import Pixels

_MODES: Final = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}

# For each orientation: whether rows become columns, and which axes are then reversed.
_HEIGHT, _WIDTH = 1, 2
_TURNS: Final[dict[int, tuple[bool, tuple[int, ...]]]] = {
    2: (False, (_WIDTH,)),
    3: (False, (_HEIGHT, _WIDTH)),
    4: (False, (_HEIGHT,)),
    5: (True, ()),
    6: (True, (_WIDTH,)),
    7: (True, (_HEIGHT, _WIDTH)),
    8: (True, (_HEIGHT,)),
}


def fits(header: Image.Image, preprocessing: Preprocessing) -> bool:
    """Whether the header is that of a JPEG in colour or grey, which is not so long that most of it
    would be resized only to be cropped.
    """
    resized = resized_size(header.width, header.height, preprocessing.resize)
    usual = header.format == "JPEG" and header.mode in {"RGB", "L"}
    return usual and max(resized) <= LONGEST_IN_CROPS * preprocessing.crop


def decode_fast(body: bytes, preprocessing: Preprocessing, orientation: int = UPRIGHT) -> Pixels:
    """Decodes a JPEG and prepares it for the network.

    Args:
        body: the bytes of a JPEG file.
        preprocessing: the network's preprocessing.
        orientation: how to turn it before the resize: EXIF's values 1 to 8.

    Returns:
        (crop, crop, 3) uint8.

    Raises:
        RuntimeError: the decoder cannot read the file.
    """
    torch.set_num_threads(1)  # each decoder has one core
    stored = decode_jpeg(torch.frombuffer(bytearray(body), dtype=torch.uint8), ImageReadMode.RGB)
    image = _turn(stored, orientation)
    resized = functional.resize(
        image,
        [preprocessing.resize],
        interpolation=_MODES[preprocessing.interpolation],
        antialias=True,
    )
    cropped = functional.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    pixels: Pixels = cropped.permute(1, 2, 0).numpy()
    return pixels


def _turn(image: Tensor, orientation: int) -> Tensor:
    """(3, height, width) → the same picture turned, (3, height, width) or (3, width, height)."""
    if orientation == UPRIGHT:
        return image
    transposed, reversed_axes = _TURNS[orientation]
    turned = image.transpose(_HEIGHT, _WIDTH) if transposed else image
    return turned.flip(reversed_axes)
