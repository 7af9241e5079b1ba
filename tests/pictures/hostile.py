"""Files that cost a loader more than they seem to."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def make_png(path: Path, width: int, height: int) -> Path:
    """Writes a PNG with this size in its header, but almost no pixels."""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _png_chunk(b"IDAT", zlib.compress(bytes(10)))
        + _png_chunk(b"IEND", b"")
    )
    return path


def make_endless_jpeg(path: Path, scans: int = 50_000) -> Path:
    """Writes a progressive JPEG that repeats its last scan: small, but an hour's decoding."""
    whole = BytesIO()
    Image.new("L", (4000, 4000), 128).save(whole, "JPEG", progressive=True)
    jpeg = whole.getvalue()
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    path.write_bytes(jpeg[:-2] + last_scan * scans + jpeg[-2:])
    return path
