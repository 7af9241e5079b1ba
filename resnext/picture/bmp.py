"""Pillow's reader of BMPs, with two errors corrected.

Pillow ignores a palette that is all grey, which is right for 8 bits but wrong for fewer. And if
alpha is 0 everywhere, it makes the picture transparent, although the writing program has only left
alpha out.
"""

from __future__ import annotations

from typing import Final

from PIL import ImagePalette
from PIL.BmpImagePlugin import BmpImageFile

from resnext.picture.file_bytes import body_of

_INFO_AT: Final = 14
_CORE_HEADER_BYTES: Final = 12
# Pictures that Pillow reads correctly without their palette: bits per pixel, and Pillow's mode.
_WITHOUT_PALETTE: Final = frozenset({(1, "1"), (8, "L")})
_RAW_MODES: Final = {1: "P;1", 4: "P;4", 8: "P"}


class Bmp(BmpImageFile):
    def _open(self) -> None:
        super()._open()
        body = body_of(self).getvalue()
        header_bytes = int.from_bytes(body[_INFO_AT : _INFO_AT + 4], "little")
        is_core = header_bytes == _CORE_HEADER_BYTES
        bits_at = _INFO_AT + (10 if is_core else 14)
        bits = int.from_bytes(body[bits_at : bits_at + 2], "little")
        if self.mode not in {"1", "L"} or (bits, self.mode) in _WITHOUT_PALETTE:
            return
        begin = _INFO_AT + header_bytes
        entry_bytes, entry = (3, "BGR") if is_core else (4, "BGRX")
        tile = self.tile[0]
        entries = body[begin : tile.offset][: entry_bytes << bits]
        self._mode = "P"
        self.palette = ImagePalette.raw(entry, entries)
        rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
        self.tile = [tile._replace(args=(_RAW_MODES[bits], *rest))]

    def load_end(self) -> None:
        super().load_end()
        if self.mode == "RGBA" and self.getchannel("A").getbbox() is None:
            self.im = self.im.convert("RGB")  # like browsers
            self._mode = "RGB"
