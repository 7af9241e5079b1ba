"""Makes a thumbnail's JPEG from the pixels that the network saw. It holds no original bytes.

This shares the worker's main process, so most of it runs without Python's lock: the resize is in C,
and Pillow writes the JPEG straight to a file, which is in memory.
"""

from __future__ import annotations

import os
from typing import Final

from PIL import Image

from resnext.picture.preprocess import Preprocessing, resize_and_crop
from resnext.picture.resample import Pixels

SIDE: Final = 128
"""In pixels. The input of a network with a smaller crop is not resized."""
QUALITY: Final = 70
_SMALLER: Final = Preprocessing(
    resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
)


class JpegMaker:
    """Owns the file. For one thread."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("thumbnail"), "w+b", buffering=0)

    def make(self, pixels: Pixels) -> bytes:
        """(crop, crop, 3) uint8 RGB → a baseline JPEG."""
        image = Image.fromarray(pixels)
        if image.width > SIDE:
            image = Image.fromarray(resize_and_crop(image, _SMALLER))
        self._file.seek(0)
        image.save(self._file, "JPEG", quality=QUALITY)
        size = self._file.tell()
        self._file.seek(0)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
