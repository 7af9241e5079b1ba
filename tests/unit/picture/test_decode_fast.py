"""The fast route from a JPEG to pixels: close to the exact one. Other files take the exact one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from resnext.picture.decode import DecodeError, DecodeLimits, Route, decode
from resnext.picture.preprocess import Preprocessing
from resnext.picture.resample import Pixels

BILINEAR = Preprocessing(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BICUBIC = Preprocessing(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture as smooth as a photograph."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return smooth.convert(mode)


def encoded(image: Image.Image, file_format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, quality=90)
    return file.getvalue()


def pixels(body: bytes, preprocessing: Preprocessing, route: Route) -> Pixels:
    return decode(
        body, limits=DecodeLimits(max_pixels=10**7), preprocessing=preprocessing, route=route
    ).pixels


@pytest.mark.parametrize("preprocessing", [BILINEAR, BICUBIC], ids=lambda p: p.interpolation)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (40, 30), (1200, 300)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_decodes_to_nearly_the_same_as_with_pillow(preprocessing, size, mode) -> None:
    body = encoded(picture(*size, mode))
    fast, exact = (pixels(body, preprocessing, route) for route in ("fast", "exact"))
    assert fast.shape == exact.shape == (224, 224, 3)
    apart = np.abs(fast.astype(int) - exact.astype(int))
    assert apart.max() <= 3
    assert (apart.max() > 0) == (size != (256, 256))  # without resizing there is no difference
    assert apart.mean() < 0.5


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(encoded(picture(500, 375), "PNG"), id="PNG"),
        pytest.param(encoded(picture(500, 375, "CMYK")), id="CMYK"),
        pytest.param(encoded(picture(9000, 20)), id="extreme"),
    ],
)
def test_an_unusual_jpeg_or_another_format_takes_the_exact_route(body) -> None:
    assert np.array_equal(pixels(body, BILINEAR, "fast"), pixels(body, BILINEAR, "exact"))


def test_a_jpeg_that_ends_early_is_refused() -> None:
    body = encoded(picture(500, 375))
    with pytest.raises(DecodeError) as raised:
        pixels(body[: len(body) // 2], BILINEAR, "fast")
    assert raised.value.code == "truncated"
    assert raised.value.size == (500, 375)
