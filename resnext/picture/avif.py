"""Pillow's reader of AVIFs, which turns the picture as the file asks.

In AVIF and HEIF this is part of the format (`irot` and `imir` in ISO 23008-12), and an orientation
in EXIF has no meaning. So EXIF, which may have any size, is not read.
"""

from __future__ import annotations

from PIL import _avif
from PIL.AvifImagePlugin import DECODE_CODEC_CHOICE, AvifImageFile

from resnext.picture import boxes
from resnext.picture.file_bytes import body_of
from resnext.picture.refusals import Unsupported
from resnext.picture.turn import turn_in_place

_THREADS = 1  # each decoder has one core


class Avif(AvifImageFile):
    def _open(self) -> None:
        content = body_of(self).getvalue()
        if boxes.is_cropped(content):
            raise Unsupported("an AVIF with a clean aperture (clap), which shows only a part")
        self._decoder = _avif.AvifDecoder(content, DECODE_CODEC_CHOICE, _THREADS)
        self._size, self.n_frames, self._mode, _, _, self._turned, _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.seek(0)

    def load_end(self) -> None:
        super().load_end()
        turn_in_place(self, self._turned)
