"""Writes TIFFs byte by byte, of any samples in any layout, without the libraries that read them."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]
"""(height, width, samples); integers that fit the bits, or floats."""
Tags = dict[int, tuple[int, list[int]]]
"""From a tag's number to its type and values."""

BYTE, SHORT, LONG, LONG8 = 1, 3, 4, 16
_LETTERS: Final = {BYTE: "B", SHORT: "H", LONG: "I", LONG8: "Q"}
NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
OLD_DEFLATE, LZMA, ZSTD = 32946, 34925, 50000
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the samples lie in the file."""

    order: str = "<"
    photometric: int = 1
    bits: int = 8
    sample_format: int = UNSIGNED
    compression: int = NONE
    predictor: int = 1
    planes: bool = False
    fill_order: int = 1
    rows: int = 0
    """Rows per strip; 0: one strip."""
    tile: int = 0
    """The side of a tile; 0: strips instead of tiles."""
    big: bool = False
    extra: tuple[int, ...] = ()
    more: Tags = field(default_factory=dict)

    def __str__(self) -> str:
        usual = Layout()
        changed = {k: v for k, v in vars(self).items() if v != getattr(usual, k)}
        return " ".join(f"{name}={value}" for name, value in changed.items()) or "usual"


def tiff(samples: Samples, layout: Layout) -> bytes:
    """Returns a whole file."""
    height, width, count = samples.shape
    planes = [samples[..., n : n + 1] for n in range(count)] if layout.planes else [samples]
    pieces = [_packed(piece, layout) for plane in planes for piece in _pieces(plane, layout)]
    tags: Tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [layout.bits] * count),
        259: (SHORT, [layout.compression]),
        262: (SHORT, [layout.photometric]),
        277: (SHORT, [count]),
        284: (SHORT, [2 if layout.planes else 1]),
    }
    if layout.fill_order != 1:
        tags[266] = (SHORT, [layout.fill_order])
    if layout.predictor != 1:
        tags[317] = (SHORT, [layout.predictor])
    if layout.extra:
        tags[338] = (SHORT, list(layout.extra))
    if layout.sample_format != UNSIGNED:
        tags[339] = (SHORT, [layout.sample_format] * count)
    if layout.tile:
        tags |= {322: (LONG, [layout.tile]), 323: (LONG, [layout.tile])}
    else:
        tags[278] = (LONG, [layout.rows or height])
    return file_of(pieces, tags | layout.more, layout.order, big=layout.big, tiled=layout.tile > 0)


def file_of(
    pieces: list[bytes], tags: Tags, order: str = "<", *, big: bool = False, tiled: bool = False
) -> bytes:
    """The pieces, then the directory, then the values that do not fit into the directory."""
    begin, size, room = (16, 20, 8) if big else (8, 12, 4)
    lengths = [len(piece) for piece in pieces]
    begins = list(accumulate(lengths[:-1], initial=begin))
    content = b"".join(pieces)
    content += bytes(len(content) % 2)
    tags = tags | {
        324 if tiled else 273: (LONG, begins),
        325 if tiled else 279: (LONG, lengths),
    }
    offset = "Q" if big else "I"
    directory = begin + len(content)
    values_at = directory + struct.calcsize(order + ("Q" if big else "H")) + size * len(tags) + room
    entries = values = b""
    for tag, (kind, numbers) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(numbers)}{_LETTERS[kind]}", *numbers)
        if len(raw) > room:
            values += raw
            raw = struct.pack(order + offset, values_at + len(values) - len(raw))
        entries += struct.pack(f"{order}HH{offset}", tag, kind, len(numbers)) + raw.ljust(
            room, b"\0"
        )
    head = b"II" if order == "<" else b"MM"
    head += struct.pack(
        order + ("HHHQ" if big else "HI"), *([43, 8, 0] if big else [42]), directory
    )
    number = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + content + number + entries + bytes(room) + values


def _pieces(plane: Samples, layout: Layout) -> Iterator[Samples]:
    height, width, _ = plane.shape
    side = layout.tile
    if not side:
        rows = layout.rows or height
        yield from (plane[y : y + rows] for y in range(0, height, rows))
        return
    padded = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)))
    for y in range(0, height, side):
        yield from (padded[y : y + side, x : x + side] for x in range(0, width, side))


def _packed(piece: Samples, layout: Layout) -> bytes:
    rows = [_row_bytes(row, layout) for row in piece]
    raw = b"".join(rows)
    if layout.fill_order == 2:  # mirrored after compression
        return COMPRESSORS[layout.compression](raw).translate(_MIRRORED)
    return COMPRESSORS[layout.compression](raw)


_MIRRORED: Final = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))


def _row_bytes(row: Samples, layout: Layout) -> bytes:
    """(width, samples) → bytes, by the layout's bits, byte order and predictor."""
    letter = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[layout.sample_format]
    if layout.bits % 8 or layout.bits == 24:
        return _bit_packed(row.reshape(-1), layout.bits)
    kind = np.dtype(f"{letter}{layout.bits // 8}")
    typed = row.astype(kind)
    if layout.predictor == 3:
        return _float_predicted(typed)
    if layout.predictor == 2:
        whole = typed.view(f"u{layout.bits // 8}")
        typed = np.concatenate([whole[:1], whole[1:] - whole[:-1]])
    return typed.astype(typed.dtype.newbyteorder(layout.order)).tobytes()


def _bit_packed(numbers: Samples, bits: int) -> bytes:
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits(((numbers[:, None].astype(np.int64) >> shifts) & 1).reshape(-1)).tobytes()


def _float_predicted(row: Samples) -> bytes:
    """Adobe's Technical Note 3: first all highest bytes and so on, then differences."""
    width = row.shape[0]
    big_endian = row.astype(row.dtype.newbyteorder(">")).reshape(-1)
    planes = big_endian.view(np.uint8).reshape(-1, row.dtype.itemsize).T.reshape(-1)
    step = row.size // width
    return np.concatenate([planes[:step], planes[step:] - planes[:-step]]).tobytes()


def _lzw(raw: bytes) -> bytes:
    """Codes of 9 bits: the table is cleared before longer codes are needed."""
    codes = []
    for begin in range(0, len(raw), 200):
        codes += [256, *raw[begin : begin + 200]]
    return _bit_packed(np.array([*codes, 257]), 9)


def _packbits(raw: bytes) -> bytes:
    pieces = [raw[n : n + 128] for n in range(0, len(raw), 128)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def _zstd(raw: bytes) -> bytes:
    """A frame of blocks that are stored uncompressed (RFC 8878)."""
    pieces = [raw[n : n + 2**16] for n in range(0, len(raw), 2**16)]
    frame = bytes.fromhex("28b52ffd a0") + struct.pack("<I", len(raw))
    for n, piece in enumerate(pieces, 1):
        frame += ((len(piece) << 3) | (n == len(pieces))).to_bytes(3, "little") + piece
    return frame


COMPRESSORS: Final[dict[int, Callable[[bytes], bytes]]] = {
    NONE: bytes,
    LZW: _lzw,
    DEFLATE: zlib.compress,
    OLD_DEFLATE: zlib.compress,
    PACKBITS: _packbits,
    LZMA: partial(lzma.compress, preset=0),  # the default preset takes 10 ms to start
    ZSTD: _zstd,
}
