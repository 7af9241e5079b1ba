"""Pillow's reader of TIFFs, for the layouts that it reads correctly. Others are refused by name.

The orientation is part of this format, so the picture is always turned.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from resnext.picture import tiff_layout, tiff_tags
from resnext.picture.file_bytes import body_of
from resnext.picture.turn import ORIENTATION_TAG, turn_in_place

_UNSIGNED_32 = "I;32N"


class Tiff(TiffImageFile):
    def _open(self) -> None:
        tiff_layout.check(tiff_tags.read_tags(body_of(self).getvalue()))
        super()._open()
        args = self.tile[0].args if self.tile else None
        self._is_unsigned = isinstance(args, tuple) and args[0] == _UNSIGNED_32
        colours = self.tag_v2.get(tiff_tags.PALETTE, ())
        if self.mode in {"P", "PA"} and max(colours, default=0) <= 0xFF:  # noqa: PLR2004
            # Old programs wrote 16 bits but used only the lower eight.
            self.palette = ImagePalette.raw("RGB;L", bytes(colours))

    def load_end(self) -> None:
        """Reads nothing more from the file, because EXIF and GPS may have any size."""
        if self._is_unsigned:
            self._read_as_unsigned()
        turn_in_place(self, self.tag_v2.get(ORIENTATION_TAG))

    def _read_as_unsigned(self) -> None:
        """Pillow has only signed 32 bits. If a sample is larger, all samples become floats."""
        samples = np.asarray(self).view(np.uint32)
        if samples.max() > np.iinfo(np.int32).max:
            self.im = Image.fromarray(samples.astype(np.float32)).im
            self._mode = "F"
