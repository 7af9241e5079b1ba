"""Hundreds of odd images: each format, mode, size and kind of damage, and bombs of each format.

They are made anew for each run: no file is stored, and the same names give the same bytes.
`test_odd_images` decodes all of them in a child process, and the fuzzer starts from them.
"""

from __future__ import annotations

import itertools
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener

from tests.pictures import tiffs

PIXELS: Final = "pixels"
"""The outcome of a decoded image. Every other outcome is an error code."""
DAMAGED: Final = frozenset({PIXELS, "decode_error", "truncated", "not_an_image"})
MAX_PIXELS: Final = 4_000_000
"""Bombs are made to be just below this limit, or far above it."""
MAX_SIDE_PIXELS: Final = 65_535
SIZES: Final = ((1, 1), (7, 5), (64, 48), (300, 1), (1, 300))
DAMAGED_SIZE: Final = (64, 48)


@dataclass(frozen=True)
class OddImage:
    name: str
    body: bytes
    endings: frozenset[str] = DAMAGED
    """The permitted outcomes: `PIXELS` or error codes."""


def odd_images() -> Iterator[OddImage]:
    register_heif_opener()
    yield from whole_images()
    yield from damaged_images()
    yield from lying_images()
    yield from bombs()
    yield from strangers()


# Intact images: each format in each mode and size.


@cache
def photograph(width: int, height: int) -> Image.Image:
    """An RGB picture with some edges and some noise."""
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    slope = np.add.outer(np.linspace(0, 90, height), np.linspace(0, 90, width))[..., None]
    return Image.fromarray((noise + slope).astype(np.uint8))


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode.startswith("I;16"):
        samples = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        return Image.frombytes(mode, picture.size, samples.astype(_byte_order(mode)).tobytes())
    if mode in {"LAB", "YCbCr", "HSV"}:
        return Image.merge(mode, picture.split())
    if mode in {"RGBA", "LA"}:
        faded = picture.convert(mode)
        faded.putalpha(Image.linear_gradient("L").resize(picture.size))
        return faded
    if mode == "PA":
        return in_mode(picture, "RGBA").convert("PA")
    return picture.convert(mode)


def _byte_order(mode: str) -> str:
    return ">u2" if mode == "I;16B" else "<u2"


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


Kind = tuple[str, str, dict[str, Any]]
"""Format, mode, options of Pillow's `save`."""

_ANIMATED: Final = {"save_all": True, "frames": 3}
KINDS: Final[tuple[Kind, ...]] = (
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"subsampling": 0, "quality": 100}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("JPEG", "RGB", {"keep_rgb": True}),
    ("JPEG", "L", {"restart_marker_blocks": 1}),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "L", {"transparency": 60}),
    ("PNG", "1", {"transparency": 0}),
    ("PNG", "RGB", {"transparency": (30, 30, 30)}),
    ("PNG", "I;16", {"transparency": 257}),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "P", {"transparency": bytes(range(0, 250, 5))}),
    ("PNG", "P", {"bits": 2}),
    ("PNG", "RGBA", _ANIMATED),
    ("PNG", "P", _ANIMATED),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "L", {"lossless": True}),
    ("WEBP", "RGBA", _ANIMATED),
    *(("GIF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ("GIF", "P", {"transparency": 3}),
    ("GIF", "L", {"interlace": 0}),
    ("GIF", "RGBA", _ANIMATED),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(
        ("TIFF", mode, {})
        for mode in (
            *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"),
            *("I;16", "I;16B", "I", "F"),
        )
    ),
    *(
        ("TIFF", mode, {"compression": compression})
        for mode, compression in (
            *itertools.product(("L", "RGB", "CMYK", "I;16", "F"), ("tiff_lzw", "packbits")),
            *(("RGB", "jpeg"), ("L", "jpeg"), ("YCbCr", "jpeg"), ("1", "group4"), ("1", "group3")),
            *(("RGBA", "tiff_adobe_deflate"), ("RGB", "zstd"), ("P", "tiff_lzw")),
        )
    ),
    ("TIFF", "RGB", _ANIMATED),
    *(("AVIF", mode, {}) for mode in ("L", "LA", "RGB", "RGBA")),
    ("AVIF", "RGB", _ANIMATED),
    *(("HEIF", mode, {}) for mode in ("L", "RGB", "RGBA")),
)


def whole_images() -> Iterator[OddImage]:
    for kind, size in itertools.product(KINDS, SIZES):
        name = f"{name_of(kind)} {size[0]}x{size[1]}"
        yield OddImage(name, whole(kind, size), frozenset({PIXELS}))
    yield from (OddImage(name, body, frozenset({PIXELS})) for name, body in rarities())


def name_of(kind: Kind) -> str:
    file_format, mode, options = kind
    return " ".join([file_format, mode, *(f"{key}={options[key]}" for key in options)])


@cache
def _whole(number: int, size: tuple[int, int]) -> bytes:
    file_format, mode, options = KINDS[number]
    options = dict(options)
    picture = photograph(*size)
    if frames := options.pop("frames", 0):
        options["append_images"] = [in_mode(picture.rotate(90 * n), mode) for n in range(1, frames)]
    if mode == "P" and options.get("bits"):
        return saved(picture.quantize(4), file_format, **options)
    return saved(in_mode(picture, mode), file_format, **options)


def whole(kind: Kind, size: tuple[int, int] = DAMAGED_SIZE) -> bytes:
    return _whole(KINDS.index(kind), size)


def rarities() -> Iterator[tuple[str, bytes]]:
    """Yields images that Pillow reads but does not write."""
    samples = np.arange(6 * 4, dtype=np.uint16).reshape(4, 6) * 2700
    for depth, colour, channels in ((16, 2, 3), (16, 4, 2), (16, 6, 4)):
        rows = np.repeat(samples[..., None], channels, axis=2).astype(">u2")
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        yield f"PNG of {depth} bits, colour type {colour}", png(6, 4, raw, depth, colour)
    yield "PNG in Adam7", png(1, 1, b"\0\x80", interlaced=True)
    yield "GIF whose frame exceeds its screen", gif(10, 10, frame=(20, 15, 9, 9))
    yield "GIF whose frame is less than its screen", gif(40, 30, frame=(5, 5, 10, 10))
    yield "BMP from top to bottom", bmp(6, -4, bytes(20 * 4))
    yield "BMP of RLE", bmp_rle(64, 48)
    yield "TIFF in tiles", tiff_of_tiles(40, 30, 16)
    grey = np.arange(40 * 30).reshape(30, 40, 1) * 54
    colour = np.repeat(grey, 3, axis=2)
    for name, samples, layout in (
        ("separate planes", colour >> 8, {"photometric": 2, "compression": 8, "planes": True}),
        ("a predictor", colour, {"photometric": 2, "bits": 16, "compression": 5, "predictor": 2}),
        ("big-endian samples", grey, {"bits": 16, "order": ">", "rows": 7}),
        (
            "a float's predictor",
            grey / 65535,
            {"bits": 32, "sample_format": 3, "compression": 8, "predictor": 3},
        ),
        ("mirrored bytes", grey & 1, {"bits": 1, "compression": 32773, "fill_order": 2}),
        (
            "zstd in tiles",
            colour >> 8,
            {
                "photometric": 6,
                "compression": 50000,
                "tile": 16,
                "more": {530: (tiffs.SHORT, [1, 1])},
            },
        ),
    ):
        yield f"TIFF of {name}", tiffs.tiff(samples, tiffs.Layout(**layout))
    yield "BigTIFF", saved(photograph(40, 30), "TIFF", big_tiff=True)
    yield "JPEG with rubbish behind it", saved(photograph(40, 30), "JPEG") + bytes(1000)
    yield "MPO", saved(photograph(40, 30), "MPO", save_all=True, append_images=[photograph(40, 30)])
    yield "HEIF of 10 bits", saved(in_mode(photograph(40, 30), "I;16"), "HEIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        yield f"{file_format} with a rotation", saved(photograph(40, 30), file_format, exif=exif)


# Damaged images: cut at every tenth, bytes flipped, words overwritten.


def damaged_images() -> Iterator[OddImage]:
    for kind in KINDS:
        body, name = whole(kind), name_of(kind)
        for tenth in range(1, 10):
            yield OddImage(f"{name} cut at {tenth}/10", body[: len(body) * tenth // 10])
        for seed in range(3):
            yield OddImage(f"{name} flipped, {seed}", flipped(body, seed), DAMAGED_HEADER)
        for seed in range(3):
            yield OddImage(f"{name} overwritten, {seed}", overwritten(body, seed), DAMAGED_HEADER)
        yield OddImage(f"{name} without its second half", body[: len(body) // 2] + bytes(len(body)))


DAMAGED_HEADER: Final = DAMAGED | {"too_many_pixels", "unsupported_format"}


def flipped(body: bytes, seed: int) -> bytes:
    """Flips a bit in each of eight bytes, half of them near the beginning, where lengths are."""
    dice, changed = random.Random(seed), bytearray(body)
    for n in range(8):
        end = min(len(body), 100) if n % 2 else len(body)
        changed[dice.randrange(12 if len(body) > 100 else 0, end)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def overwritten(body: bytes, seed: int) -> bytes:
    """Overwrites four bytes near the beginning with an impossible length."""
    dice, changed = random.Random(seed), bytearray(body)
    begin = dice.randrange(8, min(len(body), 200) - 4)
    changed[begin : begin + 4] = dice.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
    return bytes(changed)


# Images whose headers lie about what follows.


def lying_images() -> Iterator[OddImage]:
    makers: tuple[Callable[[], Iterator[tuple[str, bytes]]], ...] = (
        *(lying_pngs, lying_jpegs, lying_gifs, lying_bmps, lying_tiffs, lying_webps, lying_heifs),
    )
    for name, body in itertools.chain.from_iterable(maker() for maker in makers):
        yield OddImage(f"lying {name}", body, DAMAGED_HEADER)


def png_chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content) if length is None else length) + name + content + checksum


PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"


def png_header(
    width: int, height: int, depth: int = 8, colour: int = 0, *, interlaced: bool = False
) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return PNG_MAGIC + png_chunk(b"IHDR", fields)


def png(
    width: int,
    height: int,
    raw: bytes,
    depth: int = 8,
    colour: int = 0,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """`raw` holds the rows, each after its filter byte. `before` and `after` are whole chunks."""
    header = png_header(width, height, depth, colour, interlaced=interlaced)
    pixels = png_chunk(b"IDAT", zlib.compress(raw))
    return header + before + pixels + after + png_chunk(b"IEND", b"")


def lying_pngs() -> Iterator[tuple[str, bytes]]:
    few = bytes(11 * 10)
    for width, height in ((10, 2000), (0, 10), (10, 0), (2**31 - 1, 1), (2**32 - 1, 2**32 - 1)):
        yield f"PNG of {width}x{height}", png(width, height, few)
    for depth, colour in ((3, 0), (0, 0), (16, 3), (1, 6), (8, 7), (255, 255)):
        yield f"PNG of {depth} bits in colour type {colour}", png(10, 10, few, depth, colour)
    yield "PNG with a palette that is not there", png(10, 10, few, 8, 3)
    yield "PNG with rows that end early", png(10, 10, few[:50])
    yield "PNG with rows that go on", png(10, 10, few * 100)
    yield "PNG with an unknown filter", png(10, 10, b"\xff" * 110)
    header, end = png_header(10, 10), png_chunk(b"IEND", b"")
    for length in (0, 5, 10**6, 2**31, 2**32 - 1):
        chunk = png_chunk(b"IDAT", zlib.compress(few), length)
        yield f"PNG with a chunk of {length} bytes", header + chunk + end
    yield "PNG without pixels", header + end
    yield "PNG whose pixels are not a zlib stream", header + png_chunk(b"IDAT", b"x" * 50) + end
    for name in (b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"pHYs", b"gAMA", b"eXIf"):
        for content in (b"", b"x", b"x" * 5000):
            told = f"PNG with {len(content)} bytes of {name.decode()}"
            yield told, png(10, 10, few, before=png_chunk(name, content))
    for frames in (0, 2**32 - 1):
        control = png_chunk(b"acTL", struct.pack(">II", frames, 0))
        yield f"PNG of {frames} frames", png(10, 10, few, before=control)
    frame = struct.pack(">IIIIIHHBB", 0, 2**31, 2**31, 2**31, 2**31, 1, 1, 0, 0)
    control = png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"fcTL", frame)
    yield "PNG with a frame beyond it", png(10, 10, few, before=control)


def replaced(body: bytes, place: int, content: bytes) -> bytes:
    return body[:place] + content + body[place + len(content) :]


def lying_jpegs() -> Iterator[tuple[str, bytes]]:
    body = saved(photograph(64, 48), "JPEG")
    frame, scan = body.index(b"\xff\xc0"), body.index(b"\xff\xda")
    for height, width in ((6000, 600), (0, 64), (48, 0), (1, 1), (65535, 65535)):
        told = f"JPEG of {width}x{height}"
        yield told, replaced(body, frame + 5, struct.pack(">HH", height, width))
    for precision in (0, 1, 12, 16, 255):
        yield f"JPEG of {precision} bits", replaced(body, frame + 4, bytes([precision]))
    for components in (0, 1, 2, 4, 255):
        yield f"JPEG of {components} components", replaced(body, frame + 9, bytes([components]))
    for sampling in (0x00, 0x44, 0x14, 0xFF):
        yield f"JPEG sampled by {sampling:x}", replaced(body, frame + 11, bytes([sampling]))
    for kind in range(0xC1, 0xD0):
        yield f"JPEG with a frame of {kind:x}", replaced(body, frame + 1, bytes([kind]))
    for length in (0, 1, 2, 65535):
        for place, name in ((2, "APP0"), (frame, "SOF"), (scan, "SOS")):
            lie = replaced(body, place + 2, struct.pack(">H", length))
            yield f"JPEG with {length} bytes of {name}", lie
    yield "JPEG without tables", body[:2] + body[frame:]
    yield "JPEG without a scan", body[:scan] + b"\xff\xd9"
    yield "JPEG without anything", b"\xff\xd8\xff\xd9"
    yield "JPEG with a second frame", body[:scan] + body[frame:]
    yield "JPEG with an end in its middle", replaced(body, scan + 100, b"\xff\xd9")
    for name, content, marker in itertools.product(
        (b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0", b"Adobe", b"Photoshop 3.0\0"),
        (b"", b"\xff" * 9, b"II*\0\x08\0\0\0" + b"\xff" * 200),
        (0xE1, 0xE2, 0xED, 0xEE),
    ):
        told = f"JPEG with {len(content)} bytes of {name!r} in {marker:x}"
        yield told, body[:2] + jpeg_segment(marker, name + content) + body[2:]


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def gif(
    width: int,
    height: int,
    *,
    frame: tuple[int, int, int, int] | None = None,
    before: bytes = b"",
    code_bits: int = 2,
) -> bytes:
    """A grey GIF with almost no data. `frame` is left, top, width and height."""
    left, top, frame_width, frame_height = frame or (0, 0, width, height)
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", left, top, frame_width, frame_height, 0)
    codes = bytes([code_bits]) + gif_blocks(_lzw_of_zeros(frame_width * frame_height))
    return screen + before + image + codes + b";"


def gif_blocks(content: bytes) -> bytes:
    pieces = [content[n : n + 255] for n in range(0, len(content), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _lzw_of_zeros(pixels: int, most: int = 5_000_000) -> bytes:
    """Codes of 3 to 12 bits, each for a longer run of zeros than the one before."""
    bits, length, made, code, width = [(4, 3)], 1, 0, 0, 3
    following = 6
    pixels = min(pixels, most)
    while made < pixels:
        bits.append((code, width))
        made += length
        length += 1
        code = following
        following += 1
        if following > 1 << width:
            width += 1
        if following >= 4096:
            bits.append((4, 12))
            length, code, width, following = 1, 0, 3, 6
    value, at, out = 0, 0, bytearray()
    for code, width in bits:
        value |= code << at
        at += width
        while at >= 8:
            out.append(value & 255)
            value >>= 8
            at -= 8
    out.append(value & 255)
    return bytes(out)


def lying_gifs() -> Iterator[tuple[str, bytes]]:
    for size in ((0, 0), (0, 10), (65535, 65535), (65535, 1)):
        yield f"GIF of {size[0]}x{size[1]}", gif(*size, frame=(0, 0, 10, 10))
    yield "GIF with a frame of 65535x65535", gif(10, 10, frame=(0, 0, 65535, 65535))
    yield "GIF with a frame at 65535", gif(10, 10, frame=(65535, 65535, 10, 10))
    yield "GIF with a frame of nothing", gif(10, 10, frame=(0, 0, 0, 0))
    for bits in (0, 1, 9, 12, 13, 255):
        yield f"GIF with codes of {bits} bits", gif(10, 10, code_bits=bits)
    body = saved(in_mode(photograph(64, 48), "P"), "GIF")
    for flags in (0x00, 0x7F, 0xFF):
        yield f"GIF with flags {flags:x}", replaced(body, 10, bytes([flags]))
    yield "GIF without a frame", body[:13] + bytes(768) + b";"
    for kind in (1, 249, 254, 255, 7):
        for content in (b"\0", b"\1\1\0", b"\xff" + b"x" * 20):
            extension = b"!" + bytes([kind]) + content
            yield f"GIF with {len(content)} bytes of {kind}", gif(10, 10, before=extension)


def bmp(width: int, height: int, pixels: bytes, bits: int = 24, compression: int = 0) -> bytes:
    palette = bytes(4 << bits) if bits <= 8 else b""
    begin = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", begin + len(pixels), 0, 0, begin)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 1, 1, 0, 0)
    return head + info + palette + pixels


def bmp_rle(width: int, height: int) -> bytes:
    line = b"".join(bytes([min(255, width - x), 7]) for x in range(0, width, 255)) + b"\0\0"
    return bmp(width, height, line * height + b"\0\1", 8, 1)


def lying_bmps() -> Iterator[tuple[str, bytes]]:
    few = bytes(300)
    for size in ((0, 0), (-10, 10), (10, -(2**31)), (2**31 - 1, 2**31 - 1), (100, 100)):
        yield f"BMP of {size[0]}x{size[1]}", bmp(*size, few)
    for bits, compression in ((0, 0), (7, 0), (16, 3), (8, 1), (4, 2), (24, 4), (32, 99), (8, 5)):
        body = bmp(10, 10, few, bits, compression)
        yield f"BMP of {bits} bits in compression {compression}", body
    body = bmp(10, 9, few)
    for place, name in ((10, "a begin"), (14, "a header"), (46, "colours"), (34, "bytes")):
        for value in (0, 1, 2**16, 2**32 - 1):
            yield f"BMP with {name} of {value}", replaced(body, place, struct.pack("<I", value))
    for codes in (b"\0\2\xff\xff" * 90, b"\0\xff", b"\xff\1" * 500, b"\0\0" * 500):
        yield f"BMP of RLE {codes[:4].hex()}", bmp(10, 10, codes, 8, 1)


Tag = tuple[int, int, int, int]
"""Number, type, count and value or offset."""


def tiff(tags: list[Tag], content: bytes = b"", *, directory: bytes | None = None) -> bytes:
    """The content starts at byte 8, and the directory follows it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    if directory is None:
        directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


def grey_tags(width: int, height: int, **changes: int) -> list[Tag]:
    values = {
        "width": (256, width), "height": (257, height), "bits": (258, 8), "compression": (259, 1),
        "photometric": (262, 1), "begin": (273, 8), "samples": (277, 1), "rows": (278, height),
        "bytes": (279, width * height),
    }  # fmt: skip
    return [
        (number, 4, 1, changes.get(name, value) & 0xFFFFFFFF)
        for name, (number, value) in values.items()
    ]


def tiff_of_tiles(width: int, height: int, side: int) -> bytes:
    tags = [tag for tag in grey_tags(width, height) if tag[0] not in {273, 278, 279}]
    number = -(-width // side) * -(-height // side)
    content = struct.pack(f"<{number}I", *[8 + 4 * number] * number) + bytes(side * side)
    tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, number, 8), (325, 4, 1, side * side)]
    return tiff(tags + tiles, content)


def lying_tiffs() -> Iterator[tuple[str, bytes]]:
    few = bytes(200)
    for size in ((0, 0), (10, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (100, 100)):
        yield f"TIFF of {size[0]}x{size[1]}", tiff(grey_tags(*size), few)
    for name in ("bits", "compression", "photometric", "begin", "samples", "rows", "bytes"):
        for value in (0, 2, 5, 7, 32, 65535, 2**31, 2**32 - 1):
            body = tiff(grey_tags(10, 10, **{name: value}), few)
            yield f"TIFF with {name} of {value}", body
    for compression in (2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34676, 34925, 50000, 50001):
        body = tiff(grey_tags(10, 10, compression=compression), few)
        yield f"TIFF whose pixels are not compressed by {compression}", body
    for kind in (0, 1, 2, 5, 7, 12, 13, 16, 99):
        for count in (0, 2**16, 2**31, 2**32 - 1):
            tags = [*grey_tags(10, 10), (700, kind, count, 8)]
            yield f"TIFF with {count} values of type {kind}", tiff(tags, few)
    whole_directory = tiff(grey_tags(10, 10), few)[208:]
    loop = whole_directory[:-4] + struct.pack("<I", 208)
    yield "TIFF whose next page is its first", tiff([], few, directory=loop)
    yield "TIFF with 65535 tags", tiff([], few, directory=b"\xff\xff" + whole_directory[2:])
    yield "TIFF without a directory", tiff([], few, directory=b"")
    yield "TIFF without tags", tiff([], few)
    for side in (0, 1, 2**15, 2**31, 2**32 - 1):
        tags = [tag for tag in grey_tags(10, 10) if tag[0] not in {273, 278, 279}]
        tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 200)]
        for compression in (1, 5, 8):
            tags[3] = (259, 4, 1, compression)
            told = f"TIFF in tiles of {side}, compression {compression}"
            yield told, tiff(tags + tiles, few)


def riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    content = b"WEBP" + b"".join(webp_chunk(*chunk) for chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(content) if length is None else length) + content


def webp_chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    told = len(content) if length is None else length
    return name + struct.pack("<I", told) + content + bytes(len(content) % 2)


def canvas(width: int, height: int, flags: int = 0x10) -> tuple[bytes, bytes]:
    """The chunk of an extended WebP with the size of its canvas."""
    sides = (side.to_bytes(4, "little")[:3] for side in (width - 1, height - 1))
    return b"VP8X", bytes([flags, 0, 0, 0]) + b"".join(sides)


def lying_webps() -> Iterator[tuple[str, bytes]]:
    for lossless in (True, False):
        body = saved(photograph(64, 48), "WEBP", lossless=lossless)
        image = (body[12:16], body[20:])
        for length in (0, 4, 2**31, 2**32 - 1):
            yield f"WebP of {length} bytes, {lossless}", riff(image, length=length)
            chunk = replaced(body, 16, struct.pack("<I", length))
            yield f"WebP with a chunk of {length} bytes, {lossless}", chunk
        for size in ((1, 1), (63, 48), (2**24, 1), (2**12, 2**12), (16384, 16384)):
            told = f"WebP on a canvas of {size[0]}x{size[1]}, {lossless}"
            yield told, riff(canvas(*size), image)
        for flags in (0x02, 0x3E, 0xFF):
            yield f"WebP with flags {flags:x}, {lossless}", riff(canvas(64, 48, flags), image)
        sides = (
            replaced(body, 26, b"\xff\x3f\xff\x3f")
            if not lossless
            else replaced(body, 21, b"\xff\xff\xff\xff")
        )
        yield f"WebP of 16383x16383, {lossless}", sides
        yield f"WebP twice, {lossless}", riff(canvas(64, 48), image, image)
    yield "WebP without an image", riff(canvas(64, 48))
    yield "WebP without anything", riff()
    frame = bytes(12) + b"\xff" * 4
    yield "WebP with an empty frame", riff(canvas(64, 48, 2), (b"ANIM", bytes(6)), (b"ANMF", frame))


def lying_heifs() -> Iterator[tuple[str, bytes]]:
    for file_format in ("AVIF", "HEIF"):
        body = saved(photograph(64, 48), file_format)
        for size in ((0, 0), (640, 480), (2**32 - 1, 2**32 - 1), (2**31, 1), (9999, 9999)):
            lie = replaced(body, body.index(b"ispe") + 8, struct.pack(">II", *size))
            yield f"{file_format} of {size[0]}x{size[1]}", lie
        for box in (
            b"ftyp",
            b"meta",
            b"iloc",
            b"iinf",
            b"iprp",
            b"ipco",
            b"ipma",
            b"mdat",
            b"pitm",
        ):
            for length in (0, 1, 7, 10**6, 2**32 - 1):
                lie = replaced(body, body.index(box) - 4, struct.pack(">I", length))
                yield f"{file_format} with {length} bytes of {box.decode()}", lie


# Bombs: few bytes that decode to many.

BOMB: Final = frozenset({"too_many_pixels", "decode_error", "truncated"})
HARMLESS: Final = frozenset({PIXELS}) | BOMB


def bombs() -> Iterator[OddImage]:
    for name, body in bombs_of_pixels():
        yield OddImage(f"bomb: {name}", body, frozenset({"too_many_pixels"}))
    for name, body in largest_images():
        yield OddImage(f"largest: {name}", body, frozenset({PIXELS}))
    for name, body in bombs_of_frames():
        yield OddImage(f"bomb: {name}", body, frozenset({PIXELS}))
    for name, body in bombs_of_metadata():
        yield OddImage(f"bomb: {name}", body, HARMLESS)


def bombs_of_pixels() -> Iterator[tuple[str, bytes]]:
    """Headers of 60000x60000 with few pixels, and sides that no picture has."""
    side = 60_000
    yield "PNG", png(side, side, bytes(1000))
    yield "PNG of one row", png(MAX_SIDE_PIXELS + 1, 1, bytes(1000))
    yield "PNG of one column", png(1, MAX_SIDE_PIXELS + 1, bytes(1000))
    body = saved(photograph(8, 8), "JPEG")
    size = struct.pack(">HH", side, side)
    yield "JPEG", replaced(body, body.index(b"\xff\xc0") + 5, size)
    yield "GIF", gif(side, side, frame=(0, 0, 10, 10))
    yield "GIF's frame", gif(10, 10, frame=(0, 0, side, side))
    yield "BMP", bmp(side, side, bytes(1000))
    yield "TIFF", tiff(grey_tags(side, side), bytes(1000))
    yield "WebP", riff(canvas(16383, 16383), (b"VP8 ", saved(photograph(8, 8), "WEBP")[20:]))
    lossless = replaced(saved(photograph(8, 8), "WEBP", lossless=True), 21, b"\xff\xff\xff\x0f")
    yield "lossless WebP", lossless
    for file_format in ("AVIF", "HEIF"):
        body = saved(photograph(64, 48), file_format)
        lie = replaced(body, body.index(b"ispe") + 8, struct.pack(">II", 16000, 16000))
        yield file_format, lie


def largest_images() -> Iterator[tuple[str, bytes]]:
    """As many pixels as permitted, in few bytes."""
    side = int(MAX_PIXELS**0.5)
    size = (side, side)
    for file_format, mode, options in (
        *(("PNG", mode, {}) for mode in ("L", "RGBA", "P", "I;16", "LA")),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {"compression": "tiff_lzw"}),
        ("TIFF", "LAB", {"compression": "tiff_lzw"}),
        ("AVIF", "RGBA", {"speed": 10}),
        ("HEIF", "RGB", {}),
    ):
        flat = Image.new(mode, size)
        yield f"{file_format} {mode}", saved(flat, file_format, **options)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "JPEG with a rotation", saved(Image.new("CMYK", size), "JPEG", exif=exif)
    frames = {"save_all": True, "append_images": [Image.new("RGBA", size, "red")], "method": 0}
    yield "WebP with a rotation", saved(Image.new("RGBA", size), "WEBP", exif=exif, **frames)
    yield "GIF", gif(*size)
    yield "BMP of RLE", bmp_rle(*size)
    row = bytes(1 + 6 * side)
    clear = png_chunk(b"tRNS", b"\0\1" * 3)
    yield (
        "PNG RGB of 16 bits with a transparent colour",
        png(side, side, row * side, 16, 2, before=clear),
    )
    row = bytes(1 + 2 * side)
    clear = png_chunk(b"tRNS", b"\0\1")
    yield "PNG I;16 with a transparent colour", png(side, side, row * side, 16, before=clear)
    deep = np.full((side, side, 1), 2**32 - 1)
    yield "TIFF of 32 bits without sign", tiffs.tiff(deep, tiffs.Layout(bits=32, compression=8))
    yield "GIF whose frame covers a part", gif(*size, frame=(0, 0, side - 1, side))
    exif = Image.Exif()
    exif[0x0112] = 6
    for file_format, mode, options in (
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {"compression": "tiff_lzw"}),
        ("AVIF", "RGBA", {"speed": 10}),
    ):
        turned = saved(Image.new(mode, size), file_format, exif=exif, **options)
        yield f"{file_format} {mode} with a rotation", turned
    yield "PNG of one row", png(MAX_SIDE_PIXELS, 1, bytes(MAX_SIDE_PIXELS + 1))
    yield "PNG of one column", png(1, MAX_SIDE_PIXELS, bytes(2 * MAX_SIDE_PIXELS))


def bombs_of_frames() -> Iterator[tuple[str, bytes]]:
    """Only the first frame counts, so thousands of others must cost nothing."""
    small = gif(500, 500)
    frame = small[small.index(b",") : -1]
    yield "GIF of 2000 frames", small[:-1] + frame * 2000 + b";"
    picture = photograph(64, 48)
    blank = Image.new("RGBA", (200, 200))
    frames = [Image.new("RGBA", (200, 200), (n, 0, 0)) for n in range(1, 50)]
    for file_format in ("PNG", "WEBP"):
        body = saved(blank, file_format, save_all=True, append_images=frames)
        yield f"{file_format} of 50 frames", body
    pages = [picture] * 200
    yield "TIFF of 200 pages", saved(picture, "TIFF", save_all=True, append_images=pages)
    body = saved(blank, "AVIF", save_all=True, append_images=frames[:9], speed=10)
    yield "AVIF of 10 frames", body


def bombs_of_metadata() -> Iterator[tuple[str, bytes]]:
    row, inflated = bytes(11 * 10), zlib.compress(bytes(100 * 2**20), 9)
    chunks = {
        b"zTXt": b"key\0\0" + inflated,
        b"iTXt": b"key\0\1\0\0\0" + inflated,
        b"iCCP": b"name\0\0" + inflated,
    }
    for name, content in chunks.items():
        chunk = png_chunk(name, content)
        yield f"PNG with {name.decode()}", png(10, 10, row, before=chunk)
        yield f"PNG with {name.decode()} after its pixels", png(10, 10, row, after=chunk)
    few = png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(10**6), 9))
    yield "PNG with 200 texts of 1 MB", png(10, 10, row, before=few * 200)
    yield "PNG with 200000 texts", png(10, 10, row, before=png_chunk(b"tEXt", b"k\0t") * 200_000)
    yield "PNG with a text of 8 MB", png(10, 10, row, before=png_chunk(b"tEXt", b"k\0" * 2**22))
    jpeg = saved(photograph(64, 48), "JPEG")
    for marker, content in (
        *((0xE1, b"Exif\0\0" + bytes(60_000)), (0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))),
        *((0xED, b"Photoshop 3.0\0" + b"8BIM" * 9000), (0xFE, b"x" * 60_000), (0xEF, b"")),
    ):
        segments = jpeg_segment(marker, content) * (8 * 2**20 // (len(content) + 40))
        yield f"JPEG with 8 MB of {marker:x}", jpeg[:2] + segments + jpeg[2:]
    exif = struct.pack("<HHII", 271, 2, 2**32 - 1, 8) * 5000
    segment = jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x88\x13" + exif[:65_000])
    yield "JPEG with 5000 tags that lie", jpeg[:2] + segment + jpeg[2:]
    for kind in (254, 255, 1, 249):
        extension = b"!" + bytes([kind]) + gif_blocks(b"x" * 4 * 2**20)
        yield f"GIF with 4 MB of {kind}", gif(10, 10, before=extension)
    yield "GIF with 500000 comments", gif(10, 10, before=b"!\xfe\1x\0" * 500_000)
    tags = [(30_000 + n % 30_000, 4, 1, n) for n in range(65_000)]
    yield "TIFF with 65000 tags", tiff(grey_tags(10, 10) + tags, bytes(200))
    tags = [(30_000 + n, 12, 100_000, 8) for n in range(100)]
    yield "TIFF with 100 tags of 800 kB", tiff(grey_tags(10, 10) + tags, bytes(2**20))
    webp = saved(photograph(64, 48), "WEBP")
    image = (webp[12:16], webp[20:])
    for name in (b"ICCP", b"EXIF", b"XMP ", b"JUNK"):
        huge = riff(canvas(64, 48, 0x2C), (name, bytes(8 * 2**20)), image)
        yield f"WebP with 8 MB of {name.decode()}", huge
        many = riff(canvas(64, 48, 0x2C), image, *[(name, b"")] * 500_000)
        yield f"WebP with 500000 of {name.decode()}", many
    ftyp = saved(photograph(64, 48), "AVIF")
    free = struct.pack(">I4s", 8, b"free") * 500_000
    yield "AVIF with 500000 boxes", ftyp + free


# Files that are not a picture in any supported format.

_HTML = b"<!DOCTYPE html><html><body>404</body></html>"
_STRANGERS: Final = {
    "not_an_image": {
        "nothing": b"",
        "a byte": b"\xff",
        "a text": b"This is a text.\n" * 100,
        "a page": _HTML,
        "a page after blanks": b"\xef\xbb\xbf \n\t" + _HTML,
        "JSON": b'{"error": "no such picture"}',
        "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "zeros": bytes(5000),
        "a program": b"\x7fELF" + bytes(500),
        "an archive": b"PK\x03\x04" + bytes(500),
        "gzip": b"\x1f\x8b\x08" + bytes(500),
    },
    "unsupported_format": {
        "PDF": b"%PDF-1.7\n" + bytes(500),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "EPS of DOS": b"\xc5\xd0\xd3\xc6" + bytes(500),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "SVG after a prologue": b'<?xml version="1.0"?>\n<!-- x -->\n<svg/>',
        "PSD": b"8BPS\0\1" + bytes(500),
        "ICO": b"\0\0\1\0\1\0" + bytes(500),
        "CUR": b"\0\0\2\0\1\0" + bytes(500),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(500),
        "codestream of JPEG 2000": b"\xff\x4f\xff\x51" + bytes(500),
        "JPEG XL": b"\xff\x0a" + bytes(500),
        "DDS": b"DDS \x7c" + bytes(500),
        "ICNS": b"icns" + bytes(500),
        "QOI": b"qoif" + bytes(500),
        "FITS": b"SIMPLE  =                    T" + bytes(500),
        "PPM": b"P6\n1 1\n255\n\0\0\0",
        "XPM": b"/* XPM */\nstatic char *x[] = {",
        "XCF": b"gimp xcf file\0",
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(500),
        "MP4": b"\0\0\0\x20ftypisom" + bytes(500),
        "WebM": b"\x1aE\xdf\xa3" + bytes(500),
        "AVI": b"RIFF\0\0\0\0AVI " + bytes(500),
    },
}  # fmt: skip


def strangers() -> Iterator[OddImage]:
    for code, bodies in _STRANGERS.items():
        for name, body in bodies.items():
            yield OddImage(f"stranger: {name}", body, frozenset({code}))
