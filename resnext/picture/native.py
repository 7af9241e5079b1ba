"""`resample_window` in C, for all pictures: the same bits as Pillow's, in less time.

`preprocess` calls it if the extension `_resample` was built, which needs a C compiler when the
project is installed. It reads Pillow's memory without a copy, and both passes compute only the rows
and columns of the crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from resnext.picture import _resample
from resnext.picture.resample import Pixels, Taps, vertical_first

# Pillow keeps a picture of more than 16 MiB in several blocks, so it is not one array. It is copied
# in strips. A strip of this size stays in a core's cache.
STRIP_BYTES: Final = 2**18
# In columns. This is a block of the vector code.
NARROWEST_STRIP: Final = 16
# Pillow keeps an RGB pixel in four bytes.
PIXEL_BYTES: Final = 4


def resample_window(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: str,
) -> Pixels:
    """Computes `image.resize(size, interpolation).crop(box)`. The box must be within the size.

    Args:
        image: an RGB picture.
        size: the width and height of the whole result.
        box: the left, top, right and bottom of the wanted part.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        (bottom - top, right - left, 3) uint8.
    """
    left, top, right, bottom = box
    columns = weigh(image.width, size[0], left, right, interpolation)
    rows = weigh(image.height, size[1], top, bottom, interpolation)
    made = np.empty((bottom - top, right - left, 3), np.uint8)
    if vertical_first(image.size, size):
        _down_then_across(image, rows, columns, made)
    else:
        _across_then_down(image, rows, columns, made)
    return made


def weigh(in_size: int, out_size: int, begin: int, end: int, interpolation: str) -> Taps:
    """Returns the taps of output pixels `begin` to `end`, if `in_size` pixels become `out_size`."""
    first, weights = _resample.weigh(in_size, out_size, begin, end, interpolation)
    return Taps(
        np.frombuffer(first, np.int64), np.frombuffer(weights, np.int32).reshape(end - begin, -1)
    )


def _across_then_down(image: Image.Image, rows: Taps, columns: Taps, made: Pixels) -> None:
    between = np.empty((rows.end - rows.begin, made.shape[1], 3), np.uint8)
    step = max(1, STRIP_BYTES // (PIXEL_BYTES * (columns.end - columns.begin)))
    at = 0
    for strip in _strips(image, rows, columns, (step, columns.end)):
        part = between[at : at + len(strip)]
        _resample.horizontal(strip, part, columns.first, columns.weights, columns.begin)
        at += len(strip)
    _resample.vertical(between, made, rows.first, rows.weights, rows.begin)


def _down_then_across(image: Image.Image, rows: Taps, columns: Taps, made: Pixels) -> None:
    between = np.empty((len(made), columns.end - columns.begin, PIXEL_BYTES), np.uint8)
    step = max(NARROWEST_STRIP, STRIP_BYTES // (PIXEL_BYTES * (rows.end - rows.begin)))
    at = 0
    for strip in _strips(image, rows, columns, (rows.end, step)):
        part = between[:, at : at + strip.shape[1]]
        _resample.vertical(strip, part, rows.first, rows.weights, rows.begin)
        at += strip.shape[1]
    _resample.horizontal(between, made, columns.first, columns.weights, columns.begin)


def _strips(
    image: Image.Image, rows: Taps, columns: Taps, most: tuple[int, int]
) -> Iterator[Pixels]:
    """Yields the part of a picture that the taps need: at once if the picture is in one block,
    otherwise in strips of at most these rows and columns, from top to bottom and left to right.
    """
    whole = _borrowed(image)
    if whole is not None:
        yield whole[rows.begin : rows.end, columns.begin : columns.end]
        return
    for top in range(rows.begin, rows.end, most[0]):
        for left in range(columns.begin, columns.end, most[1]):
            right, bottom = min(left + most[1], columns.end), min(top + most[0], rows.end)
            strip = image.crop((left, top, right, bottom))
            pixels = _borrowed(strip)
            # Pillow's environment variables may make its blocks smaller than a strip.
            yield np.asarray(strip.convert("RGBX")) if pixels is None else pixels


def _borrowed(image: Image.Image) -> Pixels | None:
    """Returns a view of Pillow's memory, (height, width, 4) uint8, which keeps it alive. None if
    the memory is not one array.
    """
    try:
        schema, array = image.__arrow_c_array__()
    except ValueError:  # several blocks, or rows that are not contiguous
        return None
    return np.asarray(_resample.Borrowed(schema, array, image.height, image.width))
