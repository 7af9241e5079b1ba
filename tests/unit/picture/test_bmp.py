"""BMPs of each depth, header and packing, made byte by byte, decode to what they were made from."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.picture.decode import DecodeError, DecodeLimits, decode
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.shown import rgb_of

HEIGHT, WIDTH = 9, 13
Numbers = NDArray[Any]
RAW, RLE8, RLE4, MASKS = 0, 1, 2, 3

DICE: Final = np.random.default_rng(0)
COLOURS: Final = DICE.integers(0, 256, (256, 3))
GREYS: Final = np.repeat(np.arange(256)[:, None], 3, axis=1)
BLACK_AND_WHITE: Final = np.array([[0, 0, 0], [255, 255, 255]])
TWO_COLOURS: Final = np.array([[10, 20, 30], [200, 0, 90]])


def bmp(
    rows: bytes,
    bits: int,
    *,
    palette: Numbers | None = None,
    compression: int = RAW,
    masks: tuple[int, ...] = (),
    core: bool = False,
    down: bool = False,
    told: int | None = None,
) -> bytes:
    """Makes a BMP.

    `rows` go from the last one up, or `down`. `told` is the number of colours in the header, by
    default as many as the palette has.
    """
    entries = b""
    if palette is not None:
        pad = b"" if core else b"\0"
        entries = b"".join(bytes(reversed(colour.tolist())) + pad for colour in palette)
    number = len(palette) if told is None and palette is not None else told or 0
    if core:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        sides = (WIDTH, -HEIGHT if down else HEIGHT, 1, bits, compression, len(rows))
        info = struct.pack("<IiiHHIIiiII", 40, *sides, 0, 0, number, 0)
    if len(masks) == 4:  # a version 4 header also has an alpha mask, and fields that are 0 here
        info = struct.pack("<I", 108) + info[4:] + struct.pack("<4I", *masks) + bytes(52)
    else:
        info += struct.pack(f"<{len(masks)}I", *masks)
    begin = 14 + len(info) + len(entries)
    return b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + info + entries + rows


def packed(samples: Numbers, bits: int, *, down: bool = False) -> bytes:
    """(height, width) → rows with this many bits per sample, each padded to four bytes."""
    lines = samples if down else samples[::-1]
    ones = (lines[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    if bits > 8:  # as little-endian numbers
        kind = {16: "<u2", 32: "<u4"}[bits]
        raw = [line.astype(kind).tobytes() for line in lines]
    else:
        raw = [np.packbits(line.reshape(-1)).tobytes() for line in ones]
    return b"".join(line + bytes(-len(line) % 4) for line in raw)


PALETTES = {
    "colours": COLOURS,
    "greys": GREYS,
    "black and white": BLACK_AND_WHITE,
    "white and black": BLACK_AND_WHITE[::-1],
    "two colours": TWO_COLOURS,
    "one grey": np.array([[0, 0, 0]]),
}


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_indices_become_the_colours_of_their_palette(bits, name, down) -> None:
    """This includes palettes of greys, which Pillow ignored at any depth."""
    palette = PALETTES[name][: 2**bits]
    samples = DICE.integers(0, len(palette), (HEIGHT, WIDTH))
    rows = packed(samples, bits, down=down)
    assert np.array_equal(
        rgb_of("BMP", bmp(rows, bits, palette=palette, down=down)), palette[samples]
    )


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("name", ["colours", "greys"])
def test_an_os2_header_has_palette_entries_of_three_bytes(bits, name) -> None:
    palette = PALETTES[name][: 2**bits]
    samples = DICE.integers(0, 2**bits, (HEIGHT, WIDTH))
    body = bmp(packed(samples, bits), bits, palette=palette, core=True)
    assert np.array_equal(rgb_of("BMP", body), palette[samples])


@pytest.mark.parametrize("name", ["colours", "greys", "black and white"])
@pytest.mark.parametrize(("bits", "compression"), [(8, RLE8), (4, RLE4)])
def test_run_lengths_become_the_colours_of_their_palette(bits, compression, name) -> None:
    palette = PALETTES[name][: 2**bits]
    samples = np.repeat(DICE.integers(0, len(palette), (HEIGHT, 1)), WIDTH, axis=1)
    value = lambda n: n if bits == 8 else n << 4 | n  # noqa: E731
    lines = [bytes([WIDTH, value(int(line[0])), 0, 0]) for line in samples[::-1]]
    body = bmp(b"".join(lines) + b"\0\1", bits, palette=palette, compression=compression)
    assert np.array_equal(rgb_of("BMP", body), palette[samples])


def test_24_and_32_bits_are_in_the_order_blue_green_red() -> None:
    samples = DICE.integers(0, 256, (HEIGHT, WIDTH, 3))
    rows = [line[:, ::-1].astype(np.uint8).tobytes() for line in samples[::-1]]
    body = bmp(b"".join(row + bytes(-len(row) % 4) for row in rows), 24)
    assert np.array_equal(rgb_of("BMP", body), samples)
    four = samples[..., 0] << 16 | samples[..., 1] << 8 | samples[..., 2]
    assert np.array_equal(rgb_of("BMP", bmp(packed(four, 32), 32)), samples)


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, ()),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF000000, 0xFF0000, 0xFF00)),
    ],
)
def test_masks_say_where_the_colours_are(bits, masks) -> None:
    samples = DICE.integers(0, 2**bits, (HEIGHT, WIDTH))
    compression = MASKS if masks else RAW
    found = rgb_of("BMP", bmp(packed(samples, bits), bits, masks=masks, compression=compression))
    for n, mask in enumerate(masks or (0x7C00, 0x3E0, 0x1F)):
        lowest = mask & -mask
        expected = (samples & mask) // lowest * 255 / (mask // lowest)
        assert np.abs(found[..., n] - expected).max() <= 1


def test_masks_that_are_not_decoded_are_refused() -> None:
    body = bmp(bytes(4 * WIDTH * HEIGHT), 32, masks=(0x3FF00000, 0xFFC00, 0x3FF), compression=MASKS)
    with pytest.raises(DecodeError, match=r"^unsupported_format: Unsupported BMP bitfields layout"):
        decode(body, limits=DecodeLimits(), preprocessing=PREPROCESSING)


ALPHA: Final = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def test_alpha_shows_white_through() -> None:
    samples = DICE.integers(0, 2**32, (HEIGHT, WIDTH))
    found = rgb_of("BMP", bmp(packed(samples, 32), 32, masks=ALPHA, compression=MASKS))
    colours = np.stack([samples >> 16 & 255, samples >> 8 & 255, samples & 255], axis=-1)
    share = (samples >> 24)[..., None] / 255.0
    assert np.abs(found - (colours * share + 255 * (1 - share))).max() <= 1


def test_alpha_that_is_0_everywhere_is_ignored() -> None:
    """Some programs have an alpha channel but leave it empty, and browsers show such a picture."""
    samples = DICE.integers(0, 2**24, (HEIGHT, WIDTH))
    found = rgb_of("BMP", bmp(packed(samples, 32), 32, masks=ALPHA, compression=MASKS))
    colours = np.stack([samples >> 16 & 255, samples >> 8 & 255, samples & 255], axis=-1)
    assert np.array_equal(found, colours)
