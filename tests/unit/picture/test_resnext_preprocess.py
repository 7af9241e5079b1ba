"""Preprocessing equals torchvision's own to the bit, and pictures of every mode become RGB."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext.picture import preprocess
from resnext.picture.preprocess import Preprocessing, resize_and_crop, to_rgb
from resnext.spec.catalogue import find_spec

IMAGENET = Preprocessing(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SHAPES = [
    *((1, 1), (1, 7), (7, 1), (257, 255), (256, 256), (256, 300), (300, 256), (224, 224)),
    *((500, 375), (375, 500), (640, 100), (100, 640), (1500, 1100), (300, 2400), (2400, 300)),
    *((3000, 1), (1, 3000), (2, 2500), (2500, 2), (1000, 30), (30, 1000)),
]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def torchvisions(image: Image.Image, wanted: Preprocessing) -> np.ndarray:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    mode = InterpolationMode(wanted.interpolation)
    return np.asarray(Compose([Resize(wanted.resize, mode), CenterCrop(wanted.crop)])(image))


WAYS = ["C", "Pillow", "numpy"]


def choose(way: str, patch: pytest.MonkeyPatch) -> None:
    """Chooses a way. With the extension installed, preprocessing itself chooses C."""
    if way != "C":
        patch.setattr(preprocess, "native", None)
        longest = preprocess.LONGEST_IN_CROPS if way == "Pillow" else 0
        patch.setattr(preprocess, "LONGEST_IN_CROPS", longest)


@pytest.mark.parametrize("size", SHAPES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("way", WAYS)
def test_every_shape_is_cropped_exactly_as_by_torchvision(size, way, monkeypatch) -> None:
    choose(way, monkeypatch)
    image = noise(*size)
    assert np.array_equal(torchvisions(image, IMAGENET), resize_and_crop(image, IMAGENET))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    resize_and_crop_to=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    way=st.sampled_from(WAYS),
)
def test_any_resize_and_crop_equals_torchvisions_even_with_padding(
    width, height, resize_and_crop_to, interpolation, way
) -> None:
    wanted = Preprocessing(*resize_and_crop_to, interpolation, IMAGENET.mean, IMAGENET.std)
    image = noise(width, height)
    with pytest.MonkeyPatch.context() as patch:
        choose(way, patch)
        assert np.array_equal(torchvisions(image, wanted), resize_and_crop(image, wanted))


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000), (1_000_000, 2)])
@pytest.mark.parametrize("way", ["C", "Pillow"])
def test_a_picture_of_extreme_shape_costs_a_few_megabytes(size, way, monkeypatch) -> None:
    choose(way, monkeypatch)
    image = Image.new("RGB", size, "red")
    tracemalloc.start()
    pixels = resize_and_crop(image, IMAGENET)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 * 2**20
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (255, 0, 0)).all()


def colour(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (10, 255), (10, 10, 10)),
        ("La", (0, 0), (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("RGBa", (0, 0, 0, 51), (204, 204, 204)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (100, 128, 128), (100, 100, 100)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 128, (0, 0, 0)),
        ("I;16", 129, (1, 1, 1)),
        ("I;16B", 32768, (128, 128, 128)),
        ("I", 200, (200, 200, 200)),
        ("I", 65535, (255, 255, 255)),
        ("F", 0.5, (128, 128, 128)),
        ("F", 90.0, (90, 90, 90)),
        ("F", float("nan"), (0, 0, 0)),
    ],
)
def test_a_picture_of_any_mode_becomes_rgb(mode, value, expected) -> None:
    assert colour(to_rgb(Image.new(mode, (2, 2), value))) == expected


@pytest.mark.parametrize(
    ("lab", "expected"),
    [((255, 128, 128), (255, 255, 255)), ((136, 148, 138), (164, 114, 111))],
)
def test_lab_follows_the_formulas_of_cie(lab, expected) -> None:
    """L* = 53.3, a* = 20, b* = 10 under D50 is this colour by the formulas of CIE and sRGB."""
    found = colour(to_rgb(Image.new("LAB", (2, 2), lab)))
    assert found == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("mode", "values"), [("I", [-5, 100_000]), ("F", [-1.5, 1e6])])
def test_samples_outside_the_usual_range_are_stretched_from_black_to_white(mode, values) -> None:
    image = Image.new(mode, (2, 1))
    image.putdata(values)
    rgb = to_rgb(image)
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_marked_as_transparent_becomes_white(mode) -> None:
    file = io.BytesIO()
    transparency = (0, 0, 0) if mode == "RGB" else 0
    Image.new(mode, (2, 2), 0).save(file, "PNG", transparency=transparency)
    assert colour(to_rgb(Image.open(file))) == (255, 255, 255)


def test_a_palette_with_alpha_shows_white_through() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0)).convert("PA")
    assert colour(to_rgb(image)) == (255, 255, 255)


def test_a_rotation_in_exif_is_ignored_as_in_the_reference() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise(40, 30).save(file, "JPEG", exif=exif)
    assert to_rgb(Image.open(file)).size == (40, 30)


def test_a_model_has_its_own_preprocessing() -> None:
    nvidia = find_spec("resnext101_32x4d").preprocessing
    assert (nvidia.resize, nvidia.crop, nvidia.interpolation) == (256, 224, "bilinear")


def test_preprocessing_and_specs_load_no_torch() -> None:
    code = (
        "import sys, resnext.picture.decode, resnext.spec.catalogue;"
        "resnext.spec.catalogue.find_spec('resnext101_32x4d');"
        "print(*(m for m in ('torch', 'torchvision', 'requests') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
