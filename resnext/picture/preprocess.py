"""From a decoded picture of any kind to the square of pixels that the network sees.

A loader calls `to_rgb`, then `resize_and_crop`. The classifier normalises on its device. A loader
uses no torch: `native` resizes if the extension in C is built, otherwise Pillow or numpy. Every bit
equals torchvision's `Resize` and `CenterCrop` on a Pillow image. As there, EXIF's orientation is
ignored here; see `orientation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageCms

from resnext.picture.resample import Pixels, resample_window, vertical_first

try:
    from resnext.picture import native
except ImportError:  # there was no C compiler at the installation
    native = None  # type: ignore[assignment]

# Without the extension, pictures whose resized long side is more than this many crops use
# `resample_window`. It computes only the crop, and is faster than Pillow for such pictures.
# Pillow's time and memory grow with the resized picture without a limit: a 3 KB JPEG of 10000x1
# becomes 2,560,000x256 pixels. Both give the same bits.
LONGEST_IN_CROPS: Final = 6

_PILLOW_FILTER: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing with which a network was trained."""

    resize: int
    """The length of the short side before the crop, in pixels."""
    crop: int
    """The side of the square, in pixels."""
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    """For red, green and blue in 0 … 1."""
    std: tuple[float, float, float]


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture in mode RGB, as a viewer shows it on a white page.

    White shows through transparent parts, in whatever way the file marks them. Samples of 16 bits
    keep their highest 8, rounded. Samples of 32 bits and floats have no agreed white; see
    `_white_of`. CMYK uses Pillow's plain formula, and LAB its colour profile. Other embedded
    profiles are ignored, as in the reference.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(image).convert("RGB")
    if image.has_transparency_data or "transparency" in image.info:
        return _on_white(image)
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow converts this only step by step
        image = image.convert("LA")
    # This avoids needless copies, which take hundreds of megabytes for a large picture.
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _from_lab(image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, _lab_to_srgb())
    assert converted is not None  # noqa: S101  (None only when it works in place)
    return converted


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Modes I;16, I;16B …, I and F → L. NaN becomes black, and transparent pixels become white."""
    given = np.asarray(image)
    clear = image.info.get("transparency")
    clears = given == clear if isinstance(clear, int) else None
    samples = given.astype(np.float32)
    np.nan_to_num(samples, copy=False, nan=0.0)
    black, white = _white_of(image.mode, float(samples.min()), float(samples.max()))
    samples -= np.float32(black)
    samples *= np.float32(255.0 / (white - black))
    shown = np.rint(samples, out=samples).astype(np.uint8)
    if clears is not None:
        shown[clears] = 255
    return Image.fromarray(shown)


def _white_of(mode: str, smallest: float, largest: float) -> tuple[float, float]:
    """The samples that are shown as black and as white.

    16-bit formats define them: 0 and 65535. For I (32-bit integers) it is the smaller of the ranges
    0 … 255 and 0 … 65535 that contains all samples; for F (floats) of 0 … 1 and 0 … 255. If neither
    does, for example in measurements, it is the smallest and the largest sample.
    """
    usual = {"I": (255.0, 65535.0), "F": (1.0, 255.0)}.get(mode, (65535.0,))
    for white in usual:
        if smallest >= 0.0 and largest <= white:
            return 0.0, white
    return (smallest, largest) if largest > smallest else (smallest, smallest + 1.0)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Does the same as torchvision's `Resize(resize)` and `CenterCrop(crop)` with an RGB picture.

    The picture's own pixels and the crop bound time and memory; the resized picture does not.

    Returns:
        (crop, crop, 3) uint8.
    """
    width, height = resized_size(image.width, image.height, preprocessing.resize)
    crop = preprocessing.crop
    left, right = _window(width, crop)
    top, bottom = _window(height, crop)
    box = (left, top, right, bottom)
    if native is not None:
        pixels = native.resample_window(image, (width, height), box, preprocessing.interpolation)
    elif max(width, height) > LONGEST_IN_CROPS * crop:
        pixels = resample_window(image, (width, height), box, preprocessing.interpolation)
    else:
        pixels = np.asarray(_resize_window(image, (width, height), box, preprocessing))
    return _pad(pixels, crop)


def _resize_window(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    preprocessing: Preprocessing,
) -> Image.Image:
    """Computes `image.resize(size).crop(box)` axis by axis, like Pillow, but the second axis only
    inside the box.
    """
    width, height = size
    left, top, right, bottom = box
    resample = _PILLOW_FILTER[preprocessing.interpolation]
    if vertical_first(image.size, size):
        rows = image.resize((image.width, height), resample).crop((0, top, image.width, bottom))
        return rows.resize((width, rows.height), resample).crop((left, 0, right, rows.height))
    columns = image.resize((width, image.height), resample).crop((left, 0, right, image.height))
    return columns.resize((columns.width, height), resample).crop((0, top, columns.width, bottom))


def resized_size(width: int, height: int, resize: int) -> tuple[int, int]:
    """Torchvision's rule: the short side becomes `resize`, and the long side is rounded down."""
    short, long = sorted((width, height))
    resized_long = int(resize * long / short)
    return (resize, resized_long) if width <= height else (resized_long, resize)


def _window(size: int, crop: int) -> tuple[int, int]:
    """The part of an axis that the crop takes; all of it if the crop is longer."""
    if crop >= size:
        return 0, size
    first = round((size - crop) / 2.0)
    return first, first + crop


def _pad(pixels: Pixels, crop: int) -> Pixels:
    """Adds black around pixels that are smaller than the crop, like torchvision. An odd pixel goes
    after them.
    """
    missing = [crop - side for side in pixels.shape[:2]]
    if not any(missing):
        return pixels
    sides = [(short // 2, (short + 1) // 2) for short in missing]
    return np.pad(pixels, (*sides, (0, 0)))
