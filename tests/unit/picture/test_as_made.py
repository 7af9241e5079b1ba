"""WebP, AVIF and HEIF of each mode decode to the pixels that they were made from, on white."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.pictures import odd_images as odd
from tests.pictures.odd_images import in_mode, saved
from tests.pictures.shown import rgb_of

Y, X = np.mgrid[0:48, 0:64]
PICTURE = Image.fromarray(np.stack([X * 4, Y * 5, 255 - X * 4], -1).astype(np.uint8))


def on_white(image: Image.Image) -> NDArray[Any]:
    samples = np.asarray(image.convert("RGBA")).astype(float)
    share = samples[..., 3:] / 255.0
    return samples[..., :3] * share + 255.0 * (1.0 - share)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_lossless_webp_decodes_to_its_original(mode) -> None:
    picture = in_mode(PICTURE, mode)
    body = saved(picture, "WEBP", lossless=True, exact=True)
    assert np.abs(rgb_of("WEBP", body) - on_white(picture)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("name", ["WEBP", "AVIF", "HEIF"])
def test_a_lossy_picture_decodes_to_nearly_its_original(name, mode) -> None:
    odd.register_heif_opener()
    picture = in_mode(PICTURE, mode)
    found = rgb_of(name, saved(picture, name, quality=95))
    assert np.abs(found - on_white(picture)).mean() < 2


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:0:0"])
def test_an_avif_of_each_subsampling_is_decoded(subsampling) -> None:
    picture = PICTURE.convert("L") if subsampling == "4:0:0" else PICTURE
    found = rgb_of("AVIF", saved(picture, "AVIF", quality=95, subsampling=subsampling))
    assert np.abs(found - on_white(picture)).mean() < 2


def test_a_heif_with_deep_samples_keeps_the_highest_8_bits() -> None:
    odd.register_heif_opener()
    deep = in_mode(PICTURE, "I;16")
    found = rgb_of("HEIF", saved(deep, "HEIF", quality=95))
    assert np.abs(found - on_white(PICTURE.convert("L"))).mean() < 2
