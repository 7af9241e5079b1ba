"""Which kinds of JPEG are decoded, and to what. Other kinds are refused by name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnext.picture.file_bytes import Body
from resnext.picture.readers import READERS
from tests.pictures import odd_images as odd
from tests.pictures.odd_images import jpeg_segment, replaced, saved
from tests.pictures.shown import refusal, rgb_of

Y, X = np.mgrid[0:32, 0:48]
GRADIENT = np.stack([X * 5, Y * 7, 255 - X * 5], -1).astype(np.uint8)
BODY = saved(Image.fromarray(GRADIENT), "JPEG", quality=97)
FRAME = BODY.index(b"\xff\xc0")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_decodes_to_nearly_its_original(mode, options) -> None:
    picture = Image.fromarray(GRADIENT).convert(mode)
    found = rgb_of("JPEG", saved(picture, "JPEG", quality=97, **options))
    assert np.abs(found - np.asarray(picture.convert("RGB")).astype(int)).mean() < 2


def lossless_jpeg(samples: NDArray[np.int64], marker: int = 0xC3) -> bytes:
    """(height, width, components) of 8 bits → a lossless JPEG.

    Each sample is coded as the difference from its left neighbour, or at the beginning of a row
    from the one above (ISO/IEC 10918-1, annex H).
    """
    height, width, count = samples.shape
    head = struct.pack(">BHHB", 8, height, width, count)
    parts = b"".join(bytes([n, 0x11, 0]) for n in range(count))
    lengths = bytes([0, 0, 0, 9, *[0] * 12])  # nine 4-bit codes: how many bits follow
    tables = b"".join(bytes([n, 0]) for n in range(count))
    neighbours = np.concatenate([samples[:, :1], samples[:, :-1]], axis=1)
    neighbours[1:, 0], neighbours[0, 0] = samples[:-1, 0], 128
    bits = ""
    for apart in (samples - neighbours).reshape(-1).tolist():
        length = abs(apart).bit_length()
        bits += f"{length:04b}"
        bits += f"{apart if apart > 0 else apart + (1 << length) - 1:0{length}b}" if length else ""
    bits += "1" * (-len(bits) % 8)
    coded = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8))
    return (
        b"\xff\xd8"
        + jpeg_segment(marker, head + parts)
        + jpeg_segment(0xC4, b"\0" + lengths + bytes(range(9)))
        + jpeg_segment(0xDA, bytes([count]) + tables + bytes([1, 0, 0]))
        + coded.replace(b"\xff", b"\xff\0")
        + b"\xff\xd9"
    )


@pytest.mark.parametrize("components", [1, 3])
def test_a_lossless_jpeg_decodes_to_the_bit(components) -> None:
    samples = GRADIENT[..., :components].astype(int)
    found = rgb_of("JPEG", lossless_jpeg(samples))
    assert np.array_equal(found, np.broadcast_to(samples, (*samples.shape[:2], 3)))


@pytest.mark.parametrize("bits", [2, 7, 10, 12, 16])
@pytest.mark.parametrize("marker", [0xC1, 0xC3])
def test_other_depths_are_refused_by_name(bits, marker) -> None:
    body = replaced(BODY, FRAME + 1, bytes([marker, 0, 17, bits]))
    words = f"a JPEG with {bits} bits per sample; only 8 are supported"
    assert refusal(body) == f"unsupported_format: {words}"


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF])
def test_a_hierarchical_jpeg_is_refused_by_name(marker) -> None:
    body = replaced(BODY, FRAME + 1, bytes([marker]))
    assert refusal(body) == "unsupported_format: a hierarchical JPEG"


@pytest.mark.parametrize(
    ("marker", "words"),
    [(0xCB, "a lossless JPEG in arithmetic codes"), (0xF7, "a JPEG-LS image")],
)
def test_other_coding_processes_are_refused_by_name(marker, words) -> None:
    assert refusal(replaced(BODY, FRAME + 1, bytes([marker]))) == f"unsupported_format: {words}"


@pytest.mark.parametrize("count", [2, 5, 200])
def test_other_numbers_of_components_are_refused_by_name(count) -> None:
    frame = struct.pack(">BHHB", 8, 32, 48, count) + b"\1\x11\0" * count
    body = BODY[:FRAME] + jpeg_segment(0xC0, frame) + BODY[FRAME + 19 :]
    words = f"a JPEG with {count} colour components; only 1, 3 and 4 are supported"
    assert refusal(body) == f"unsupported_format: {words}"


def test_the_content_of_exif_is_not_parsed() -> None:
    """An EXIF may have several segments, and one resolution may be a million fractions."""
    number = 120_000
    resolution = struct.pack("<HHII", 282, 5, number, 8 + 2 + 24 + 4)
    unit = struct.pack("<HHII", 296, 3, 1, 2)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + resolution + unit + bytes(4 + 8 * number)
    pieces = [exif[n : n + 65_000] for n in range(0, len(exif), 65_000)]
    segments = b"".join(jpeg_segment(0xE1, b"Exif\0\0" + piece) for piece in pieces)
    without_dpi = BODY[:2] + segments + BODY[BODY.index(b"\xff\xdb") :]
    image = READERS["JPEG"](Body(without_dpi))
    assert len(image.info["exif"]) > 8 * number
    assert image._exif is None


def test_a_header_may_be_padded() -> None:
    body = BODY[:2] + b"\xff" * 50 + odd.jpeg_segment(0xFE, b"padded") + BODY[2:]
    assert np.array_equal(rgb_of("JPEG", body), rgb_of("JPEG", BODY))
