"""A faster way from a JPEG to the pixels that the network sees, which is not exact.

torchvision's decoder, and its antialiased resize of tensors: a pixel comes out up to 2 of 255
beside what Pillow gives (benchmarks/stage/decode.py). Only where `RESNEXT_DECODE=fast` asks for it,
since it brings torch into whoever decodes.
"""

from __future__ import annotations

from typing import Final

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import InterpolationMode

from resnext.picture.preprocess import LONGEST_IN_CROPS, Preprocessing, resized_size
from resnext.picture.resample import Pixels

_MODES: Final = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def fits(header: Image.Image, preprocessing: Preprocessing) -> bool:
    """Whether it is a JPEG in colour or grey, and not so long that most of it would be resized
    to be cropped away; of the header alone.
    """
    resized = resized_size(header.width, header.height, preprocessing.resize)
    usual = header.format == "JPEG" and header.mode in {"RGB", "L"}
    return usual and max(resized) <= LONGEST_IN_CROPS * preprocessing.crop


def decode_fast(body: bytes, preprocessing: Preprocessing) -> Pixels:
    """
    Returns:
        (crop, crop, 3) uint8.

    Raises:
        RuntimeError: the decoder cannot read it.
    """
    torch.set_num_threads(1)  # whoever decodes has one core
    image = decode_jpeg(torch.frombuffer(bytearray(body), dtype=torch.uint8), ImageReadMode.RGB)
    resized = functional.resize(
        image,
        [preprocessing.resize],
        interpolation=_MODES[preprocessing.interpolation],
        antialias=True,
    )
    cropped = functional.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    pixels: Pixels = cropped.permute(1, 2, 0).numpy()
    return pixels
