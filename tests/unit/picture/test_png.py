"""PNGs of each depth, colour type and row order, made byte by byte, decode as made, on white."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.picture.file_bytes import Body
from resnext.picture.readers import READERS
from tests.pictures import odd_images as odd
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.odd_images import png_chunk, png_header
from tests.pictures.shown import rgb_of

Samples = NDArray[Any]
"""(height, width, samples), with the bits of a PNG."""
HEIGHT, WIDTH = 11, 13
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
KINDS = [
    *((GREY, bits) for bits in (1, 2, 4, 8, 16)),
    *((PALETTE, bits) for bits in (1, 2, 4, 8)),
    *itertools.product((RGB, GREY_ALPHA, RGB_ALPHA), (8, 16)),
]
# Left, top and steps of the seven passes (PNG 1.2, section 2.6).
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]  # fmt: skip
ENTRIES = np.random.default_rng(7).integers(0, 256, (256, 3))


def png(
    samples: Samples, colour: int, bits: int, *, interlaced: bool = False, chunks: bytes = b""
) -> bytes:
    """Makes a PNG with `chunks` before the pixels and after a palette."""
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    raw = b"".join(
        rows(samples[top::down, left::across], bits) for left, top, across, down in passes
    )
    height, width, _ = samples.shape
    header = png_header(width, height, bits, colour, interlaced=interlaced)
    if colour == PALETTE:
        header += png_chunk(b"PLTE", ENTRIES[: 2**bits].astype(np.uint8).tobytes())
    pixels = png_chunk(b"IDAT", zlib.compress(raw))
    return header + chunks + pixels + png_chunk(b"IEND", b"")


def rows(samples: Samples, bits: int) -> bytes:
    """Returns rows, each after the byte of filter 0; nothing for a pass without pixels."""
    if not samples.size:
        return b""
    shifts = np.arange(bits - 1, -1, -1)
    ones = (samples.reshape(len(samples), -1, 1) >> shifts) & 1
    packed = np.packbits(ones.reshape(len(samples), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def samples_of(colour: int, bits: int) -> Samples:
    dice = np.random.default_rng(bits)
    samples = dice.integers(0, 2**bits, (HEIGHT, WIDTH, SAMPLES[colour]))
    samples[0, 0], samples[0, 1] = 2**bits - 1, 0
    return samples


def shown(samples: Samples, colour: int, bits: int) -> Samples:
    """(height, width, 3), on white. Deep colours keep the highest 8 bits; greys are rounded."""
    if colour == PALETTE:
        return ENTRIES[samples[..., 0]]
    eight = samples >> 8 if bits == 16 else samples * (255 // (2**bits - 1))
    if colour == GREY:
        return np.repeat(np.rint(samples / (2**bits - 1) * 255), 3, axis=2)
    if colour == RGB:
        return eight
    alpha = eight[..., -1:] / 255.0
    return np.broadcast_to(eight[..., :-1], (*samples.shape[:2], 3)) * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "bits"), KINDS)
def test_each_kind_of_png_decodes_as_it_was_made(colour, bits, interlaced) -> None:
    samples = samples_of(colour, bits)
    found = rgb_of("PNG", png(samples, colour, bits, interlaced=interlaced))
    assert np.abs(found - shown(samples, colour, bits)).max() <= 1


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "bits"), [*((GREY, bits) for bits in (1, 2, 4, 8, 16)), (RGB, 8), (RGB, 16)]
)
def test_only_the_transparent_colour_of_a_png_becomes_white(colour, bits, interlaced) -> None:
    """A colour that differs only in its last bit is another colour."""
    samples = samples_of(colour, bits)
    clear = samples[5, 5].copy()
    samples[6, 6] = clear ^ 1
    samples[7] = clear
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    found = rgb_of("PNG", png(samples, colour, bits, interlaced=interlaced, chunks=chunk))
    expected = shown(samples, colour, bits)
    expected[(samples == clear).all(axis=-1)] = 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_of_a_png_may_be_partly_transparent(bits) -> None:
    samples = samples_of(PALETTE, bits)
    alpha = np.arange(2**bits) * 3 % 256
    chunk = png_chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    found = rgb_of("PNG", png(samples, PALETTE, bits, chunks=chunk))
    share = alpha[samples] / 255.0
    expected = shown(samples, PALETTE, bits) * share + 255 * (1 - share)
    assert np.abs(found - expected).max() <= 1


# Chunks that do not hold pixels.

SAMPLE = samples_of(RGB, 8)
MEGABYTES = zlib.compress(bytes(5_000_000), 9)
BAD = png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?"


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"profile\0\0" + MEGABYTES),
        png_chunk(b"iCCP", b"profile\0\7" + MEGABYTES),
        png_chunk(b"iCCP", b""),
        png_chunk(b"zTXt", b"key\0\0" + MEGABYTES),
        png_chunk(b"zTXt", b"key\0\0" + MEGABYTES) * 70,
        png_chunk(b"iTXt", b"key\0\1\0\0\0" + MEGABYTES),
        png_chunk(b"gAMA", b""),
        png_chunk(b"pHYs", b"x"),
        png_chunk(b"acTL", b""),
        png_chunk(b"fcTL", bytes(26)),
        png_chunk(b"eXIf", b"Exif" * 50_000),
        png_chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
        png_chunk(b"prVt", b"anything"),
        BAD,
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_chunks_that_change_no_pixel_may_be_damaged_or_huge(chunk, behind) -> None:
    whole = png(SAMPLE, RGB, 8, chunks=b"" if behind else chunk)
    body = whole[:-12] + chunk + whole[-12:] if behind else whole
    assert np.array_equal(rgb_of("PNG", body), SAMPLE)


def test_exif_is_kept_since_a_setting_may_use_it() -> None:
    exif = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    image = READERS["PNG"](Body(png(SAMPLE, RGB, 8, chunks=BAD + png_chunk(b"eXIf", exif) + BAD)))
    assert image.getexif()[0x0112] == 6


def test_a_damaged_chunk_that_the_pixels_depend_on_is_refused() -> None:
    clear = png_chunk(b"tRNS", bytes(6))
    for chunk in (clear[:-1] + b"?", png_chunk(b"PLTE", bytes(3))[:-1] + b"?"):
        with pytest.raises(DecodeError, match=r"^decode_error: begins as PNG, but its header is"):
            decode(
                png(SAMPLE, RGB, 8, chunks=chunk),
                limits=DecodeLimits(),
                preprocessing=PREPROCESSING,
            )


def test_an_unknown_chunk_that_changes_the_pixels_is_refused_by_name() -> None:
    """Apple's tools write CgBI for iPhones. Other readers cannot decode such pixels."""
    whole = png(SAMPLE, RGB, 8)
    body = whole[:8] + png_chunk(b"CgBI", bytes(4)) + whole[8:]
    words = "a PNG whose pixels depend on the unknown chunk CgBI"
    with pytest.raises(DecodeError, match=f"^unsupported_format: {words}$"):
        decode(body, limits=DecodeLimits(), preprocessing=PREPROCESSING)


def test_of_an_animation_the_still_picture_is_decoded() -> None:
    """The animation here consists of other frames."""
    header, pixels = png(SAMPLE, RGB, 8)[:33], png(SAMPLE, RGB, 8)[33:-12]
    frame = struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 1, 0, 0)
    other = struct.pack(">I", 1) + zlib.compress(bytes(HEIGHT * (1 + 3 * WIDTH)))
    body = (
        header
        + png_chunk(b"acTL", struct.pack(">II", 1, 0))
        + pixels
        + png_chunk(b"fcTL", frame)
        + png_chunk(b"fdAT", other)
        + odd.png_chunk(b"IEND", b"")
    )
    assert np.array_equal(rgb_of("PNG", body), SAMPLE)
