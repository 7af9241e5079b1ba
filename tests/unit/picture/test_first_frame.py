"""The first frame of a GIF or a WebP: the rest of the canvas is white, and nothing else changes."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pictures import odd_images as odd
from tests.pictures.odd_images import gif_blocks, riff, webp_chunk
from tests.pictures.shown import rgb_of

Numbers = NDArray[Any]
HEIGHT, WIDTH = 10, 16
DICE = np.random.default_rng(0)
COLOURS = DICE.integers(0, 256, (256, 3))
GREYS = np.repeat(np.arange(256)[:, None], 3, axis=1)
Box = tuple[int, int, int, int]
"""Left, top, width, height."""
BOXES: list[Box] = [(0, 0, 16, 10), (0, 0, 8, 10), (4, 2, 6, 4), (10, 6, 6, 4), (0, 9, 16, 1)]


def gif(
    indices: Numbers,
    box: Box,
    *,
    bits: int,
    palette: Numbers,
    local: bool = False,
    interlaced: bool = False,
    transparent: int | None = None,
) -> bytes:
    """(height, width) of indices → a GIF with them as a frame on a canvas of 16x10."""
    entries = palette[: 2**bits].astype(np.uint8).tobytes()
    size = 0x80 | (bits - 1)
    canvas = struct.pack("<HHBBB", WIDTH, HEIGHT, 0 if local else size, 0, 0)
    control = b""
    if transparent is not None:
        control = b"!\xf9\4" + bytes([1, 0, 0, transparent]) + b"\0"
    left, top, width, height = box
    flags = (size if local else 0) | 0x40 * interlaced
    frame = b"," + struct.pack("<HHHHB", left, top, width, height, flags)
    if interlaced:  # every eighth row first, then the rows between
        order = [
            y
            for first, step in ((0, 8), (4, 8), (2, 4), (1, 2))
            for y in range(first, height, step)
        ]
        indices = indices[order]
    code_bits = max(bits, 2)
    codes = itertools.chain.from_iterable((1 << code_bits, int(i)) for i in indices.reshape(-1))
    packed = 0
    for n, code in enumerate([*codes, (1 << code_bits) + 1]):
        packed |= code << n * (code_bits + 1)
    count = 2 * indices.size + 1
    raw = packed.to_bytes((count * (code_bits + 1) + 7) // 8, "little")
    data = bytes([code_bits]) + gif_blocks(raw)
    tables = (b"", entries) if local else (entries, b"")
    return b"GIF89a" + canvas + tables[0] + control + frame + tables[1] + data + b";"


def on_white(frame: Numbers, box: Box) -> Numbers:
    left, top, width, height = box
    canvas = np.full((HEIGHT, WIDTH, 3), 255)
    canvas[top : top + height, left : left + width] = frame
    return canvas


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("options", [{}, {"local": True}, {"interlaced": True}, {"transparent": 1}])
@pytest.mark.parametrize("palette", [COLOURS, GREYS], ids=["colours", "greys"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_a_gif_is_decoded_as_it_was_made_on_white(box, options, palette, bits) -> None:
    indices = DICE.integers(0, 2**bits, (box[3], box[2]))
    frame = palette[indices]
    if "transparent" in options:
        frame[indices == 1] = 255
    body = gif(indices, box, bits=bits, palette=palette, **options)
    assert np.array_equal(rgb_of("GIF", body), on_white(frame, box))


def test_a_gif_whose_codes_end_early_is_refused() -> None:
    """Its decoder would fill the rest with the first colour."""
    indices = np.zeros((5, 16), int)
    body = gif(indices, (0, 0, 16, 10), bits=2, palette=COLOURS)
    with pytest.raises(OSError, match="truncated"):
        rgb_of("GIF", body)


@pytest.mark.parametrize("box", [box for box in BOXES if box[1] % 2 == 0])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_webp_is_decoded_as_it_was_made_on_white(box, alpha) -> None:
    left, top, width, height = box
    picture = odd.in_mode(odd.photograph(width, height), "RGBA" if alpha else "RGB")
    still = odd.saved(picture, "WEBP", lossless=True, exact=True)[12:]
    still = still[still.index(b"VP8L") :]
    places = (left // 2, top // 2, width - 1, height - 1, 100)
    frame = b"".join(place.to_bytes(3, "little") for place in places) + b"\0" + still
    flags = 0x12 if alpha else 0x02
    body = riff(odd.canvas(WIDTH, HEIGHT, flags), (b"ANIM", bytes(6)), (b"ANMF", frame))
    samples = np.asarray(picture).astype(float)
    share = samples[..., 3:] / 255.0 if alpha else 1.0
    expected = samples[..., :3] * share + 255.0 * (1.0 - share)
    assert np.abs(rgb_of("WEBP", body) - on_white(expected, box)).max() <= 1


def test_a_webp_with_thousands_of_chunks_is_still_decoded() -> None:
    still = odd.saved(odd.photograph(16, 10), "WEBP", lossless=True)[12:]
    junk = b"".join(webp_chunk(b"JUNK", b"") for _ in range(5000))
    content = webp_chunk(*odd.canvas(16, 10, 0)) + still + junk
    body = b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content
    assert np.array_equal(rgb_of("WEBP", body), np.asarray(odd.photograph(16, 10)))
