"""AVIF and HEIF have their own boxes for rotation; the readers of both apply them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.picture.file_bytes import Body
from resnext.picture.readers import READERS
from tests.pictures import odd_images as odd
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.odd_images import replaced, saved
from tests.pictures.shown import rgb_of

Pixels = NDArray[Any]
# Corners of different colours, and sides that all differ.
CORNERS = np.array([[[230, 20, 20], [20, 230, 20]], [[20, 20, 230], [230, 230, 230]]], np.uint8)
PICTURE = CORNERS.repeat(32, axis=0).repeat(64, axis=1)


def with_box(name: str, box: bytes) -> bytes:
    """Makes a picture with this box.

    In an AVIF it replaces a box that Pillow writes. In a HEIF it replaces the bits of each
    channel, which its reader does not need.
    """
    if name == "HEIF":
        body = saved(Image.fromarray(PICTURE), name, quality=95)
        return replaced(body, body.index(b"pixi"), box)
    exif = Image.Exif()
    exif[0x0112] = {b"irot": 6, b"imir": 2}[box[:4]]
    body = saved(Image.fromarray(PICTURE), name, quality=95, exif=exif)
    return replaced(body, body.index(box[:4]), box)


@pytest.mark.parametrize(
    ("box", "turned"),
    [
        (b"irot\0", lambda a: a),
        (b"irot\1", np.rot90),
        (b"irot\2", lambda a: np.rot90(a, 2)),
        (b"irot\3", lambda a: np.rot90(a, 3)),
        (b"imir\0", lambda a: a[::-1]),
        (b"imir\1", lambda a: a[:, ::-1]),
    ],
)
@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_a_rotation_box_is_applied(name, box, turned: Callable[[Pixels], Pixels]) -> None:
    odd.register_heif_opener()
    found = rgb_of(name, with_box(name, box))
    expected = turned(PICTURE).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_from_pillow_is_turned_by_its_orientation(orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.fromarray(PICTURE)
    found = rgb_of("AVIF", saved(plain, "AVIF", quality=95, exif=exif))
    from PIL import ImageOps

    told = plain.copy()
    told.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(told)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 6


def test_the_exif_of_an_avif_is_not_read() -> None:
    """Otherwise its orientation might be a million fractions."""
    number = 1_000_000
    entries = [struct.pack("<HHII", tag, 5, number, 26) for tag in (37386, 0x0112)]
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entries[0] + bytes(4 + 8 * number)
    body = saved(Image.fromarray(PICTURE), "AVIF", exif=exif)  # Pillow only writes the other tag
    image = READERS["AVIF"](Body(body.replace(*entries)))
    assert "exif" not in image.info
    assert image._exif is None


def test_the_exif_of_an_avif_does_not_turn_it() -> None:
    """According to both formats, only their boxes count."""
    exif = Image.Exif()
    exif[0x0112] = 6
    body = saved(Image.fromarray(PICTURE), "AVIF", quality=95, exif=exif)
    told_nothing = replaced(body, body.index(b"irot"), b"irot\0")
    found = rgb_of("AVIF", told_nothing)
    assert np.abs(found - PICTURE.astype(int)).mean() < 6


def test_an_avif_with_a_crop_is_refused_by_name() -> None:
    """Pillow would show the whole picture."""
    body = saved(Image.fromarray(PICTURE), "AVIF")
    place = body.index(b"pixi") - 4
    lie = body[:place] + b"\0\0\0\x28clap" + body[place + 8 :]
    with pytest.raises(DecodeError, match=r"^unsupported_format: an AVIF with a clean aperture"):
        decode(lie, limits=DecodeLimits(), preprocessing=PREPROCESSING)


@pytest.mark.parametrize(
    ("codec", "words"),
    [(b"avc1", "H.264"), (b"jpeg", "JPEG"), (b"vvc1", "H.266"), (b"unci", "uncompressed samples")],
)
def test_a_heif_with_another_codec_is_refused_by_name(codec, words) -> None:
    odd.register_heif_opener()
    body = saved(Image.fromarray(PICTURE), "HEIF").replace(b"hvc1", codec)
    expected = f"unsupported_format: a HEIF image of {words}; only H.265 is supported"
    with pytest.raises(DecodeError) as refused:
        decode(body, limits=DecodeLimits(), preprocessing=PREPROCESSING)
    assert str(refused.value) == expected
