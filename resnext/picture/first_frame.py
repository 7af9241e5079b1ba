"""Pillow's readers of GIF and WebP, for first frames that cover only a part of the picture.

The rest becomes white, as on a viewer's page. Pillow would use the first colour of a GIF's palette,
and black in a WebP without an alpha channel.
"""

from __future__ import annotations

import struct
from typing import Final

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.WebPImagePlugin import WebPImageFile

from resnext.picture.file_bytes import body_of

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""
_WHITE: Final = (255, 255, 255)
# A WebP file: RIFF, its length, WEBP, then chunks with a name and a length.
_RIFF_BYTES: Final = 12
_CHUNK: Final = struct.Struct("<4sI")
_FRAME_BYTES: Final = 16
# The most chunks before the first frame. Usual are the canvas, a colour profile and the animation's
# settings.
_MOST_CHUNKS: Final = 1000


class Gif(GifImageFile):
    def _open(self) -> None:
        super()._open()
        self._covered = self.tile[0].extents or (0, 0, *self.size)

    def load_end(self) -> None:
        super().load_end()
        # If there is a transparent colour, Pillow has used that.
        if self._covered != (0, 0, *self.size) and "transparency" not in self.info:
            self.im = self.im.convert("RGB", Image.Dither.NONE)
            self._mode = "RGB"
            _whiten(self, self._covered)


class WebP(WebPImageFile):
    def _open(self) -> None:
        super()._open()
        self._covered = _first_frame(body_of(self).getvalue()) or (0, 0, *self.size)

    def load_end(self) -> None:
        super().load_end()
        if self.mode == "RGB":  # with alpha, the rest is transparent
            _whiten(self, self._covered)


def _whiten(image: Image.Image, but: Box) -> None:
    """Paints an RGB picture white outside the box."""
    left, top, right, bottom = but
    width, height = image.size
    for box in (
        (0, 0, width, top),
        (0, bottom, width, height),
        (0, top, left, bottom),
        (right, top, width, bottom),
    ):
        if box[0] < box[2] and box[1] < box[3]:
            image.im.paste(_WHITE, box)


def _first_frame(body: bytes) -> Box | None:
    """The place of an animation's first frame on the canvas; None if it is not an animation."""
    at = _RIFF_BYTES
    for _ in range(_MOST_CHUNKS):
        if at + _CHUNK.size + _FRAME_BYTES > len(body):
            return None
        name, length = _CHUNK.unpack_from(body, at)
        at += _CHUNK.size
        if name == b"ANMF":
            left, top, width, height = (
                int.from_bytes(body[n : n + 3], "little") for n in range(at, at + 12, 3)
            )
            return 2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1
        at += length + length % 2
    return None
