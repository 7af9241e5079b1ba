"""Pillow's resampling of 8-bit pictures, but only for a window of the result.

If `native` is not built, `preprocess` calls it for pictures so long and thin that the resized
picture would be many times the crop: a 3 KB JPEG of 10000x1 would become 2,560,000x256 pixels.
Every bit equals Pillow's: this is `libImaging/Resample.c` (`precompute_coeffs`,
`normalize_coeffs_8bpc`, `ImagingResampleHorizontal_8bpc`, `ImagingResampleVertical_8bpc`) in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# As in Resample.c: weights are integers with this many binary places. Two bits are reserved for
# filters with negative lobes, and eight for the pixel.
PRECISION_BITS: Final = 32 - 8 - 2

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Filter = Callable[[Floats], Floats]


def triangle(x: Floats) -> Floats:
    """Pillow's BILINEAR, (any shape) float64 → the same shape."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def cubic(x: Floats) -> Floats:
    """Pillow's BICUBIC (Keys, a = -0.5), with the same operations in the same order."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))  # noqa: PLR2004  (its support)


# Name → function and its support, in pixels of the coarser picture.
FILTERS: Final[dict[str, tuple[Filter, float]]] = {
    "bilinear": (triangle, 1.0),
    "bicubic": (cubic, 2.0),
}


@dataclass(frozen=True)
class Taps:
    """The input pixels of each of the n output pixels of one axis, and their weights."""

    first: NDArray[np.int64]
    """(n,) the first input pixel."""
    weights: NDArray[np.int32]
    """(n, k) int32, 0 after the last input pixel."""

    @property
    def begin(self) -> int:
        return int(self.first.min())

    @property
    def end(self) -> int:
        """One past the last input pixel, or more if the last ones have the weight 0."""
        end: int = self.first.max() + self.weights.shape[1]
        return int(end)


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
        interpolation: a key of `FILTERS`.

    Returns:
        (bottom - top, right - left, 3) uint8.
    """
    left, top, right, bottom = box
    columns = _taps(image.width, size[0], left, right, interpolation)
    rows = _taps(image.height, size[1], top, bottom, interpolation)
    source = (
        columns.begin,
        rows.begin,
        min(columns.end, image.width),
        min(rows.end, image.height),
    )
    pixels = np.asarray(image.crop(source))
    # The picture between the passes has only 8 bits, so their order matters.
    if vertical_first(image.size, size):
        return _apply_to_rows(_apply(pixels, rows, source[1]), columns, source[0])
    return _apply(_apply_to_rows(pixels, columns, source[0]), rows, source[1])


def vertical_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Pillow 13's rule (python-pillow/Pillow#9549): if height shrinks much more than width."""
    fewer_columns, fewer_rows = old[0] - new[0], old[1] - new[1]
    return fewer_rows > 0 and fewer_rows > 2 * fewer_columns


def _taps(in_size: int, out_size: int, begin: int, end: int, interpolation: str) -> Taps:
    """Returns the taps of output pixels `begin` to `end`, if `in_size` pixels become `out_size`."""
    if in_size == out_size:
        return Taps(np.arange(begin, end), np.full((end - begin, 1), 1 << PRECISION_BITS, np.int32))
    function, radius = FILTERS[interpolation]
    scale = in_size / out_size
    filter_scale = max(scale, 1.0)
    support = radius * filter_scale
    centre = (np.arange(begin, end) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), in_size)
    pixel = first[:, None] + np.arange(int((last - first).max()))  # (n, k)
    weights = function((pixel - centre[:, None] + 0.5) * (1.0 / filter_scale))
    weights[pixel >= last[:, None]] = 0.0
    # A running sum adds in C's order. numpy's own sum does not, and may differ in the last bit.
    total = weights.cumsum(axis=1)[:, -1:]
    weights /= np.where(total == 0.0, 1.0, total)
    scaled = weights * (1 << PRECISION_BITS)
    return Taps(first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32))


def _apply_to_rows(pixels: Pixels, taps: Taps, origin: int) -> Pixels:
    """(x, m, 3) uint8 → (x, n, 3) uint8."""
    return _apply(pixels.swapaxes(0, 1), taps, origin).swapaxes(0, 1)


def _apply(pixels: Pixels, taps: Taps, origin: int) -> Pixels:
    """(m, x, 3) uint8 → (n, x, 3) uint8; `pixels` start at input pixel `origin`.

    There is one pass for each tap, so memory stays at a few times the result.
    """
    total = np.full((len(taps.first), *pixels.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for k in range(taps.weights.shape[1]):
        index = np.minimum(taps.first + k - origin, len(pixels) - 1)
        total += pixels[index].astype(np.int32) * taps.weights[:, k, None, None]
    made: Pixels = np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)
    return made
