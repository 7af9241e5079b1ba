"""A faster way from a JPEG to the pixels that the network sees, which is not exact.

torchvision's decoder, and its antialiased resize of tensors: a pixel comes out up to 2 of 255
beside what Pillow gives (benchmarks/stage/decode.py). Only where `RESNEXT_DECODE=fast` asks for it,
since it brings torch into whoever decodes.
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

# Of each orientation that turns: whether rows become columns, and which axes are then reversed.
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
    """Whether it is a JPEG in colour or grey, and not so long that most of it would be resized
    to be cropped away; of the header alone.
    """
    resized = resized_size(header.width, header.height, preprocessing.resize)
    usual = header.format == "JPEG" and header.mode in {"RGB", "L"}
    return usual and max(resized) <= LONGEST_IN_CROPS * preprocessing.crop


def decode_fast(body: bytes, preprocessing: Preprocessing, orientation: int = UPRIGHT) -> Pixels:
    """
    Args:
        body: a JPEG file.
        preprocessing: of the network.
        orientation: how it is turned before the resize, as EXIF's values 1 to 8 say.

    Returns:
        (crop, crop, 3) uint8.

    Raises:
        RuntimeError: the decoder cannot read it.
    """
    torch.set_num_threads(1)  # whoever decodes has one core
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
