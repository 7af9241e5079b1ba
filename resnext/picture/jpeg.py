"""Pillow's reader of JPEGs, for the kinds that libjpeg supports. Others are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL.JpegImagePlugin import JpegImageFile

from resnext.picture.file_bytes import MOST_HEADER_READS, body_of
from resnext.picture.refusals import Unsupported

# Markers from ISO/IEC 10918-1, table B.1.
_BY_BLOCKS: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_LOSSLESS: Final = 0xC3
_NAMED: Final = {
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG"),
    0xCB: "a lossless JPEG in arithmetic codes",
    0xF7: "a JPEG-LS image",
}
_FRAMES: Final = frozenset({*_BY_BLOCKS, _LOSSLESS, *_NAMED})
_ALONE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_LAST: Final = frozenset({0xD9, 0xDA})
"""The end, and a scan. No frame header follows them."""
_BITS: Final = 8
_OTHER_BITS: Final = frozenset({*range(2, 8), *range(9, 17)})
_COMPONENTS: Final = frozenset({1, 3, 4})


@dataclass(frozen=True)
class _Frame:
    marker: int
    bits: int
    components: int
    whole: bool
    """Whether its length fits the number of components."""


class Jpeg(JpegImageFile):
    """Does not read EXIF, which may hold millions of values and does not affect the pixels."""

    def _open(self) -> None:
        frame = _frame_of(body_of(self).getvalue())
        words = None if frame is None else _refusal(frame)
        if words is not None:
            raise Unsupported(words)
        super()._open()

    def _read_dpi_from_exif(self) -> None:
        return


def _refusal(frame: _Frame) -> str | None:
    """Returns what it is if this kind of JPEG is not supported; None if it is, or is damaged."""
    if not frame.whole:
        return None
    if frame.marker in _NAMED:
        return _NAMED[frame.marker]
    if frame.bits in _OTHER_BITS:
        return f"a JPEG with {frame.bits} bits per sample; only {_BITS} are supported"
    if frame.components > 1 and frame.components not in _COMPONENTS:
        return f"a JPEG with {frame.components} colour components; only 1, 3 and 4 are supported"
    return None


def _frame_of(body: bytes) -> _Frame | None:
    """Returns the header of the first frame, or None if there is none before the pixels."""
    at = 2
    for _ in range(MOST_HEADER_READS):
        at = body.find(b"\xff", at)
        if not 0 <= at <= len(body) - 10:
            return None
        marker = body[at + 1]
        if marker in _FRAMES:
            length, components = int.from_bytes(body[at + 2 : at + 4], "big"), body[at + 9]
            return _Frame(marker, body[at + 4], components, length == 8 + 3 * components)
        if marker in _LAST:
            return None
        if marker == 0xFF:  # noqa: PLR2004  (padding)
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(body[at + 2 : at + 4], "big")
    return None
