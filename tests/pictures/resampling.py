"""Random cases for the C resampler, one for each number, and their expected results.

Windows of pictures are compared with Pillow, and weights and single passes with numpy. Half of the
passes get arguments that do not fit. They may be refused, but nothing else may go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from PIL import Image

from resnext.picture import _resample, native, resample
from resnext.picture.resample import PRECISION_BITS, Pixels, Taps

FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
REFUSALS: Final = (ValueError, TypeError, BufferError, MemoryError, OverflowError)
# The most pixels of a case's picture, before and after resizing: each takes milliseconds.
MOST_PIXELS: Final = 300_000


def run_case(seed: int) -> None:
    """Runs the case of this number.

    Raises:
        AssertionError: the result is not the expected one.
    """
    random = np.random.default_rng(seed)
    KINDS[seed % len(KINDS)](random)


def noise(random: Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def window_of_pillow(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> Pixels:
    """The expected result of `resample_window`."""
    return np.asarray(image.resize(size, FILTERS[interpolation]).crop(box))


def dense(taps: Taps, in_size: int) -> np.ndarray:
    """(n, in_size) int32: the weight of each input pixel."""
    columns = taps.first[:, None] + np.arange(taps.weights.shape[1])
    found = np.zeros((len(taps.first), in_size + taps.weights.shape[1]), np.int32)
    np.put_along_axis(found, columns, taps.weights, axis=1)
    assert not found[:, in_size:].any()
    return found[:, :in_size]


def _a_window(random: Generator) -> None:
    image = noise(random, *_sides(random))
    size = _sides(random)
    left, right = _part(random, size[0])
    top, bottom = _part(random, size[1])
    interpolation = str(random.choice([*FILTERS]))
    box = (left, top, right, bottom)
    found = native.resample_window(image, size, box, interpolation)
    assert np.array_equal(found, window_of_pillow(image, size, box, interpolation))


def _a_window_of_strips(random: Generator) -> None:
    before = Image.core.get_block_size()
    Image.core.set_block_size(4096)
    try:
        _a_window(random)
    finally:
        Image.core.set_block_size(before)


def _weights(random: Generator) -> None:
    in_size, out_size = (int(10 ** random.uniform(0, most)) for most in (4, 6))
    begin = int(random.integers(out_size))
    end = min(out_size, begin + int(random.integers(1, 64)))
    interpolation = str(random.choice([*FILTERS]))
    arguments = (in_size, out_size, begin, end, interpolation)
    found, expected = native.weigh(*arguments), resample._taps(*arguments)
    assert found.begin >= 0
    assert found.end <= in_size
    assert np.array_equal(dense(found, in_size), dense(expected, in_size))


def _any_weights(random: Generator) -> None:
    numbers = [-(2**62), -1, 0, 1, 2, 3, 255, 2**31, 2**52, 2**52 + 1, 2**62]
    in_size, out_size, begin, end = (int(random.choice(numbers)) for _ in range(4))
    interpolation = str(random.choice([*FILTERS, "nearest", "", "bilinear\0"]))
    with suppress(*REFUSALS):
        _resample.weigh(in_size, out_size, begin, end, interpolation)


def _a_pass(random: Generator) -> None:
    vertically = bool(random.integers(2))
    rows, columns = (int(side) for side in random.integers(1, 50, 2))
    channels = int(random.integers(3, 5)) if vertically else 4
    available = rows if vertically else columns
    count, width = int(random.integers(1, 40)), int(random.integers(1, available + 1))
    origin = int(random.integers(0, 100))
    source = _strided(random, (rows, columns, channels))
    shape = (count, columns, channels) if vertically else (rows, count, random.integers(3, 5))
    out = _strided(random, shape)
    first = random.integers(origin, origin + available - width + 1, count)
    most = int(1.9 * 2**PRECISION_BITS / width)
    weights = random.integers(-most, most, (count, width), dtype=np.int32)
    arguments = {"source": source, "out": out, "first": first, "weights": weights, "origin": origin}
    if random.integers(2):
        _spoil(random, arguments, origin + available - width + 1)
    run = _resample.vertical if vertically else _resample.horizontal
    try:
        run(*arguments.values())
    except REFUSALS:
        return
    assert np.array_equal(arguments["out"], _weighed(**arguments, axis=0 if vertically else 1))


def _weighed(
    *, source: Pixels, out: Pixels, first: np.ndarray, weights: np.ndarray, origin: int, axis: int
) -> Pixels:
    """The expected content of `out` after a pass."""
    lines = source.swapaxes(0, axis)
    taps = (first - origin)[:, None] + np.arange(weights.size // len(first))
    products = lines[taps].astype(np.int64) * weights.reshape(*taps.shape, 1, 1)
    sums = products.sum(axis=1) + (1 << (PRECISION_BITS - 1))
    made = np.clip(sums >> PRECISION_BITS, 0, 255).astype(np.uint8)
    return made.swapaxes(0, axis)[..., : out.shape[2]]


def _spoil(random: Generator, arguments: dict[str, Any], beyond: int) -> None:
    """Changes one argument of a pass, mostly to a value that does not fit.

    Taps that start at input pixel `beyond` or later do not fit.
    """
    source, out, first, weights, origin = arguments.values()
    some = int(random.integers(len(first)))
    changes: dict[str, Callable[[], Any]] = {
        "source": lambda: [
            source[: random.integers(len(source) + 1)],
            source[:, : random.integers(source.shape[1] + 1)],
            source[:, :, : random.integers(source.shape[2] + 1)],
            source[:, ::2],
        ][random.integers(4)],
        "out": lambda: [
            out[: random.integers(len(out) + 1)],
            out[:, : random.integers(out.shape[1] + 1)],
            out[:, :, : random.integers(out.shape[2] + 1)],
            out.tobytes(),
        ][random.integers(4)],
        "first": lambda: np.where(
            np.arange(len(first)) == some,
            random.choice([-(2**63), origin - 1, beyond, 2**63 - 1]),
            first,
        ),
        "weights": lambda: [
            weights[: random.integers(len(weights) + 1)],
            np.full_like(weights, -(2**31)),
            np.full_like(weights, 2**31 - 1),
        ][random.integers(3)],
        "origin": lambda: int(random.choice([-(2**63), -1, 0, origin + 1, 2**63 - 1])),
    }
    name = str(random.choice([*changes]))
    arguments[name] = changes[name]()


def _strided(random: Generator, shape: tuple[int, ...]) -> Pixels:
    """Pixels whose rows are adjacent, spaced apart, or upside down."""
    rows, columns, channels = shape
    wide = random.integers(0, 256, (rows, columns + 3, channels), dtype=np.uint8)
    match int(random.integers(3)):
        case 0:
            return np.ascontiguousarray(wide[:, :columns])
        case 1:
            return wide[:, 1 : columns + 1]
        case _:
            return wide[::-1, :columns]


def _sides(random: Generator) -> tuple[int, int]:
    """Width and height: tiny, usual, or long and thin."""
    most = [(1, 1), (1, 300), (5, 5), (40, 40), (540, 540), (6, 40_000)][random.integers(6)]
    sides = [int(random.integers(1, side + 1)) for side in most]
    random.shuffle(sides)
    assert sides[0] * sides[1] <= MOST_PIXELS
    return sides[0], sides[1]


def _part(random: Generator, size: int) -> tuple[int, int]:
    begin, end = sorted(int(edge) for edge in random.integers(0, size, 2))
    return begin, end + 1


KINDS: Final[list[Callable[[Generator], None]]] = [
    _a_window,
    _a_window_of_strips,
    _weights,
    _any_weights,
    _a_pass,
]
