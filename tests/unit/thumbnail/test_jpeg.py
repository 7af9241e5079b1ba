"""A thumbnail's JPEG shows what the network saw, and contains nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from worker.thumbnail.jpeg import SIDE, JpegMaker

JFIF, EXIF, COMMENT = b"\xff\xe0", b"\xff\xe1", b"\xff\xfe"


@pytest.fixture
def maker() -> Iterator[JpegMaker]:
    maker = JpegMaker()
    yield maker
    maker.close()


def slope(side: int) -> np.ndarray:
    """Red increases from left to right, green from top to bottom."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    red, green = np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side))
    return np.stack([red, green, np.zeros_like(red)], axis=2)


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


@pytest.mark.parametrize(("crop", "side"), [(224, SIDE), (129, SIDE), (128, 128), (32, 32)])
def test_a_thumbnail_shows_the_same_picture_in_small(
    maker: JpegMaker, crop: int, side: int
) -> None:
    image = opened(maker.make(slope(crop)))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (side, side))
    difference = np.asarray(image).astype(int) - slope(side)
    assert np.abs(difference).mean() < 8


def test_a_thumbnail_contains_nothing_but_the_picture(maker: JpegMaker) -> None:
    jpeg = maker.make(slope(224))
    assert set(opened(jpeg).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert jpeg.startswith(b"\xff\xd8" + JFIF)
    assert jpeg.endswith(b"\xff\xd9")
    assert EXIF not in jpeg.partition(b"\xff\xda")[0]
    assert COMMENT not in jpeg.partition(b"\xff\xda")[0]


def test_a_short_thumbnail_is_not_affected_by_a_long_one_before_it(maker: JpegMaker) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    long, short = maker.make(noise), maker.make(np.zeros((128, 128, 3), np.uint8))
    assert len(short) < len(long) / 4
    other = JpegMaker()
    assert short == other.make(np.zeros((128, 128, 3), np.uint8))
    other.close()
