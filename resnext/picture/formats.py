"""Recognises a file by its first bytes: a supported format, a refused one, or not an image.

`decode` calls this before Pillow sees the file, and then uses only the reader of that format.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from resnext.picture import boxes
from resnext.picture.readers import READERS

NAMES: Final = {"WEBP": "WebP"}
"""The spelling of formats that are not written in capitals."""

# First bytes of the supported formats. If such a file cannot be read, it is damaged.
_DECODED: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
# First bytes of known formats that are not supported, for the error message.
_REFUSED: Final = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"icns", "an icon of macOS"),
    (b"DDS ", "a DDS texture"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"gimp xcf", "a GIMP document"),
    (b"qoif", "a QOI image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"/* XPM */", "an XPM image"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"FUJIFILMCCD-RAW", "a camera's raw image"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"FLV\x01", "a Flash video"),
    *((b"P%d" % n + blank, "a PNM image") for n in range(1, 8) for blank in (b"\n", b" ")),
)
_RIFFS: Final = {b"AVI ": "an AVI video", b"WAVE": "a WAVE sound"}
_NO_IMAGES: Final = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML text"),
    (b"{", "a text, perhaps JSON"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLANKS: Final = re.compile(rb"\s*")
# What may come before the root of an XML text, and how it ends.
_PROLOGUE: Final = {b"<?": b"?>", b"<!--": b"-->"}
_DOCTYPE: Final = re.compile(rb"<!doctype\s+svg\b[^<>\[]*(\[.*?\]\s*)?>", re.IGNORECASE | re.DOTALL)
_SVG: Final = re.compile(rb"<([a-z_][\w.-]*:)?svg[\s/>]", re.IGNORECASE)
# Drawing programs write a few, but a file may consist of millions.
_MOST_PROLOGUES: Final = 100
_SNIFFED_BYTES: Final = 1024
# Reserved; 1 for an icon and 2 for a cursor; the number of them.
_ICON: Final = struct.Struct("<HHH")
_ICONS: Final = {1: "a Windows icon", 2: "a Windows cursor"}
_TGA_END: Final = b"TRUEVISION-XFILE.\0"
# Truevision's TGA 2.0: whether it has a palette, kind of image, palette, origin, sides, bits.
_TGA: Final = struct.Struct("<xBB5xHHHHB")
_TGA_BITS: Final = {
    1: (8, 16), 2: (15, 16, 24, 32), 3: (8, 16), 9: (8, 16), 10: (15, 16, 24, 32), 11: (8, 16),
}  # fmt: skip
_TGAS_WITH_PALETTE: Final = frozenset({1, 9})
_BMP_HEADER_BYTES: Final = 18


def sniff(body: bytes) -> str | None:
    """Returns a key of `READERS`, or HEIF, or None if the format is not supported."""
    for magic, name in _DECODED:
        if body.startswith(magic):
            return name
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "WEBP"
    # Texts may start with these letters as well, but they contain no zeros.
    if body.startswith(b"BM") and b"\0\0" in body[:_BMP_HEADER_BYTES]:
        return "BMP"
    return boxes.format_of(body)


def refused_format(body: bytes) -> str | None:
    """Returns what an unsupported image, drawing or video is, with an article, or None."""
    for magic, words in _REFUSED:
        if body.startswith(magic):
            return words
    if body.startswith(b"RIFF") and body[8:12] in _RIFFS:
        return _RIFFS[body[8:12]]
    if (other := boxes.other_format_of(body)) is not None:
        return other
    return _icon(body) or _drawing(body) or _targa(body)


def _icon(body: bytes) -> str | None:
    if len(body) < _ICON.size:
        return None
    reserved, kind, number = _ICON.unpack_from(body)
    return _ICONS.get(kind) if reserved == 0 and number > 0 else None


def _drawing(body: bytes) -> str | None:
    """Recognises a drawing by the root of the text. A page may contain drawings but is not one."""
    at = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    for _ in range(_MOST_PROLOGUES):
        blanks = _BLANKS.match(body, at)
        at = at if blanks is None else blanks.end()
        ends = [end for start, end in _PROLOGUE.items() if body.startswith(start, at)]
        if ends:
            at = body.find(ends[0], at) + len(ends[0])
            if at < len(ends[0]):
                return None
        elif (doctype := _DOCTYPE.match(body, at)) is not None:
            at = doctype.end()
        else:
            return "an SVG drawing" if _SVG.match(body, at) else None
    return None


def _targa(body: bytes) -> str | None:
    """Recognises a TGA by its last bytes or a plausible header. It has no typical first bytes."""
    if body.endswith(_TGA_END):
        return "a TGA image"
    if len(body) < _TGA.size:
        return None
    palette, kind, _, _, width, height, bits = _TGA.unpack_from(body)
    makes_sense = (
        bits in _TGA_BITS.get(kind, ())
        and palette == (kind in _TGAS_WITH_PALETTE)
        and width > 0
        and height > 0
    )
    return "a TGA image" if makes_sense else None


def guess(body: bytes) -> str:
    """Guesses what a file is that is not an image."""
    if not body:
        return "no bytes at all"
    head = _head(body)
    for magic, words in _NO_IMAGES:
        if head.startswith(magic.lower()):
            return words
    return "no image format begins like this"


def _head(body: bytes) -> bytes:
    """The start of a text in lower case, without a byte order mark and blanks."""
    return body[:_SNIFFED_BYTES].removeprefix(_BYTE_ORDER_MARK).lstrip().lower()


def decoded_formats() -> str:
    """The supported formats, as a text for people."""
    *names, last = [NAMES.get(name, name) for name in READERS]
    return f"{', '.join(names)} and {last}"


def is_cut(body: bytes, name: str) -> bool:
    """Whether the file ends before its outermost parts do, if these contain their length."""
    if name == "WEBP":
        return len(body) < 8 + int.from_bytes(body[4:8], "little")
    return name in {"AVIF", "HEIF"} and boxes.ends_early(body)
