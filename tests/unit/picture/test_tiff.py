"""TIFFs of every layout, made byte by byte, decode as they were made or are refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext.picture.refusals import Unsupported
from tests.pictures.odd_images import saved
from tests.pictures.shown import refusal, rgb_of
from tests.pictures.tiffs import (
    COMPRESSORS,
    DEFLATE,
    FLOAT,
    LONG,
    LZMA,
    LZW,
    NONE,
    PACKBITS,
    SHORT,
    SIGNED,
    UNSIGNED,
    ZSTD,
    Layout,
    Samples,
    Tags,
    file_of,
    tiff,
)  # fmt: skip

HEIGHT, WIDTH = 13, 18
Shown = Callable[[Samples], Samples]
"""Samples → (height, width, 3), what a viewer shows on a white page, 0 to 255."""


def grey(values: Samples) -> Samples:
    return np.repeat(values[..., :1], 3, axis=2)


def over_white(colours: Samples, alpha: Samples) -> Samples:
    return colours * alpha + 255.0 * (1.0 - alpha)


def premultiplied_over_white(colours: Samples, alpha: Samples) -> Samples:
    return np.minimum(colours + 255.0 * (1.0 - alpha), 255.0)


@dataclass(frozen=True)
class Kind:
    """The meaning of the samples."""

    name: str
    layout: Layout
    samples: int
    shown: Shown | None
    """None: no layout of this kind is decoded."""


def spread(bits: int) -> Shown:
    return lambda samples: grey(samples / (2**bits - 1) * 255.0)


def inverted(shown: Shown) -> Shown:
    return lambda samples: 255.0 - shown(samples)


def stretched(samples: Samples) -> Samples:
    low, high = float(samples.min()), float(samples.max())
    return grey((samples - low) / (high - low) * 255.0)


def highest(samples: Samples, bits: int) -> Samples:
    return samples >> (bits - 8)


def colours(bits: int, extra: tuple[int, ...] = ()) -> Shown:
    def shown(samples: Samples) -> Samples:
        high = highest(samples, bits)
        blend = {1: premultiplied_over_white, 2: over_white}.get(extra[0]) if extra else None
        return high[..., :3] if blend is None else blend(high[..., :3], high[..., 3:4] / 255.0)

    return shown


def greys(extra: int) -> Shown:
    blend = {1: premultiplied_over_white, 2: over_white}.get(extra)
    return lambda s: grey(s) if blend is None else blend(grey(s), s[..., 1:] / 255.0)


def inks(bits: int) -> Shown:
    def shown(samples: Samples) -> Samples:
        paper = 255 - highest(samples, bits)
        return paper[..., :3] * paper[..., 3:4] / 255.0

    return shown


def ycc(samples: Samples) -> Samples:
    y, cb, cr = (samples[..., n].astype(float) for n in range(3))
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(np.stack([red, green, blue], -1), 0, 255)


def palette(bits: int) -> tuple[Tags, Samples]:
    """A tag of random colours, and the colours."""
    entries = np.random.default_rng(bits).integers(0, 2**16, (3, 2**bits))
    return {320: (SHORT, entries.reshape(-1).tolist())}, (entries >> 8).T


def grey_kinds() -> Iterator[Kind]:
    for bits in (1, 2, 4, 8):
        yield Kind(f"grey {bits}", Layout(bits=bits), 1, spread(bits))
        layout = Layout(bits=bits, photometric=0)
        yield Kind(f"white is zero {bits}", layout, 1, inverted(spread(bits)))
    yield Kind("grey 16", Layout(bits=16), 1, spread(16))
    yield Kind("grey 32", Layout(bits=32), 1, stretched)
    for bits in (16, 32):
        yield Kind(f"signed {bits}", Layout(bits=bits, sample_format=SIGNED), 1, stretched)
    yield Kind("float", Layout(bits=32, sample_format=FLOAT), 1, lambda s: grey(s * 255.0))
    for extra in (0, 1, 2):
        yield Kind(f"grey and {extra}", Layout(extra=(extra,)), 2, greys(extra))


def colour_kinds() -> Iterator[Kind]:
    for bits in (8, 16):
        for extra in ((), (0,), (1,), (2,)):
            layout = Layout(photometric=2, bits=bits, extra=extra)
            yield Kind(f"RGB {bits} {extra}", layout, 3 + len(extra), colours(bits, extra))
        layout = Layout(photometric=2, bits=bits)
        yield Kind(f"RGB {bits} of four", layout, 4, colours(bits, (2,)))
        yield Kind(f"inks {bits}", Layout(photometric=5, bits=bits), 4, inks(bits))
    for extra in ((0, 0), (1, 0), (2, 0), (2, 0, 0)):
        layout = Layout(photometric=2, extra=extra)
        yield Kind(f"RGB 8 {extra}", layout, 3 + len(extra), colours(8, extra))
    for bits in (1, 2, 4, 8):
        tag, entries = palette(bits)
        layout = Layout(photometric=3, bits=bits, more=tag)
        yield Kind(f"palette {bits}", layout, 1, lambda s, e=entries: e[s[..., 0]])
    tag, entries = palette(8)
    layout = Layout(photometric=3, extra=(2,), more=tag)
    blended = lambda s: over_white(entries[s[..., 0]], s[..., 1:] / 255.0)  # noqa: E731
    yield Kind("palette and alpha", layout, 2, blended)
    yield Kind("YCbCr", Layout(photometric=6, more={530: (SHORT, [1, 1])}), 3, ycc)


def refused_kinds() -> Iterator[Kind]:
    def refused(name: str, samples: int = 1, **layout: Any) -> Kind:
        return Kind(f"refused: {name}", Layout(**layout), samples, None)

    for bits in (3, 6, 10, 12, 14, 24):
        yield refused(f"grey {bits}", bits=bits)
    yield refused("white is zero 16", bits=16, photometric=0)
    yield refused("signed 8", sample_format=SIGNED)
    for bits in (16, 64):
        yield refused(f"float {bits}", bits=bits, sample_format=FLOAT)
    yield refused("white is zero, float", bits=32, sample_format=FLOAT, photometric=0)
    yield refused("float RGB", 3, bits=32, sample_format=FLOAT, photometric=2)
    for extra in (0, 1, 2):
        yield refused(f"grey 16 and {extra}", 2, bits=16, extra=(extra,))
    yield refused("other inks", 4, photometric=5, more={332: (SHORT, [2])})
    plain = {530: (SHORT, [1, 1])}
    weights = {529: (LONG, [1, 3, 1])}
    scale = {532: (LONG, [16, 235, 128, 240, 128, 240])}
    yield refused("YCbCr of other weights", 3, photometric=6, more=plain | weights)
    yield refused("YCbCr of another range", 3, photometric=6, more=plain | scale)
    for photometric, count in ((4, 1), (9, 3), (10, 3), (32803, 1), (32844, 1), (34892, 3)):
        yield refused(f"photometric {photometric}", count, photometric=photometric)


KINDS = {kind.name: kind for kind in itertools.chain(grey_kinds(), colour_kinds(), refused_kinds())}


def samples_of(kind: Kind) -> Samples:
    """Random samples, including black and white. Premultiplied ones are at most their alpha."""
    dice, layout = np.random.default_rng(0), kind.layout
    shape = (HEIGHT, WIDTH, kind.samples)
    if layout.sample_format == FLOAT:
        return dice.random(shape)
    high = 2 ** (layout.bits - (layout.sample_format == SIGNED)) - 1
    samples = dice.integers(0, high + 1, shape)
    samples[0, 0], samples[0, 1] = high, 0
    if layout.sample_format == SIGNED:
        samples[1:3] *= -1
    if layout.extra[:1] == (1,):
        colours = kind.samples - len(layout.extra)
        alpha = samples[..., colours : colours + 1]
        samples[..., :colours] = np.minimum(samples[..., :colours], alpha)
    return samples


def layouts(kind: Kind) -> Iterator[Layout]:
    """Yields every way in which a TIFF writer can store these samples."""
    is_float = kind.layout.sample_format == FLOAT
    for order, compression, planes, predictor, fill_order, shape in itertools.product(
        "<>",
        (NONE, LZW, DEFLATE, PACKBITS, LZMA, ZSTD),
        (False, True) if kind.samples > 1 else (False,),
        (1, 3) if is_float and kind.layout.bits == 32 else (1, 2),
        (1, 2),
        ({}, {"rows": 5}, {"tile": 16}, {"big": True}),
    ):
        if predictor > 1 and (
            compression in {NONE, PACKBITS} or kind.layout.bits not in {8, 16, 32}
        ):
            continue
        yield replace(
            kind.layout, order=order, compression=compression, planes=planes,
            predictor=predictor, fill_order=fill_order, **shape,
        )  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_each_layout_decodes_as_it_was_made_or_is_refused_by_name(name) -> None:
    kind = KINDS[name]
    samples = samples_of(kind)
    apart, decoded = {}, []
    for layout in layouts(kind):
        try:
            found = rgb_of("TIFF", tiff(samples, layout))
        except Unsupported:
            continue
        decoded.append(layout)
        if kind.shown is None or np.abs(found - kind.shown(samples)).max() > 2:
            apart[str(layout)] = found[0, 0].tolist()
    assert apart == {}
    assert (kind.layout in decoded) == (kind.shown is not None)


def test_usual_kinds_are_decoded_in_every_byte_order_and_compression() -> None:
    for name in ("grey 8", "grey 1", "RGB 8 ()", "RGB 8 (2,)", "inks 8", "palette 8", "RGB 16 ()"):
        kind = KINDS[name]
        samples = samples_of(kind)
        for order, compression, rows in itertools.product("<>", COMPRESSORS, (0, 1, 5)):
            layout = replace(kind.layout, order=order, compression=compression, rows=rows)
            assert rgb_of("TIFF", tiff(samples, layout)).shape == (HEIGHT, WIDTH, 3), layout


# Lossy and fax compressions. Their streams come from Pillow's writers.

Y, X = np.mgrid[0:32, 0:48]
GRADIENT = np.stack([X * 5, Y * 7, 255 - X * 5], -1).astype(np.uint8)


def jpeg_tags(photometric: int, count: int, compression: int = 7, **more: Any) -> Tags:
    sides: Tags = {256: (LONG, [48]), 257: (LONG, [32]), 258: (SHORT, [8] * count)}
    numbers = {259: compression, 262: photometric, 277: count, 278: 32}
    return sides | {tag: (SHORT, [value]) for tag, value in numbers.items()} | more.get("tags", {})


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("photometric", "mode", "options"),
    [
        (1, "L", {}),
        (2, "RGB", {"keep_rgb": True}),
        (6, "RGB", {"subsampling": 0}),
        (6, "RGB", {"subsampling": 2}),
        (5, "CMYK", {"subsampling": 0}),
    ],
)
def test_jpeg_in_a_tiff_is_decoded(order, photometric, mode, options) -> None:
    picture = Image.fromarray(GRADIENT).convert(mode)
    # Pillow writes inks inverted, as Adobe does; in a TIFF they are not inverted.
    given = picture if mode != "CMYK" else Image.eval(picture, lambda value: 255 - value)
    stream = saved(given, "JPEG", quality=97, **options)
    sampling = {0: [1, 1], 2: [2, 2]}[options.get("subsampling", 0)]
    tags = jpeg_tags(photometric, len(picture.getbands()), tags={530: (SHORT, sampling)})
    found = rgb_of("TIFF", file_of([stream], tags, order))
    assert np.abs(found - np.asarray(picture.convert("RGB")).astype(int)).mean() < 1.5


def test_old_style_jpeg_is_decoded_if_it_is_one_stream() -> None:
    stream = saved(Image.fromarray(GRADIENT), "JPEG", quality=97)
    where: Tags = {513: (LONG, [8]), 514: (LONG, [len(stream)]), 530: (SHORT, [2, 2])}
    found = rgb_of("TIFF", file_of([stream], jpeg_tags(6, 3, 6, tags=where)))
    assert np.abs(found - GRADIENT.astype(int)).mean() < 4
    words = "unsupported_format: a TIFF of YCbCr, 3 x 8 bits, JPEG of the old kind"
    assert refusal(file_of([stream], jpeg_tags(6, 3, 6))).startswith(words)


@pytest.mark.parametrize("sampling", [(2, 1), (2, 2), (4, 2), (4, 4), (1, 2), (4, 1)])
def test_subsampled_ycbcr_is_decoded_if_it_is_compressed(sampling) -> None:
    """Each square of 4x4 pixels has one colour, so subsampling loses nothing."""
    across, down = sampling
    dice = np.random.default_rng(0)
    squares = dice.integers(60, 200, (8, 12, 3))
    whole = squares.repeat(4, axis=0).repeat(4, axis=1)
    stream = bytearray()
    for y, x in itertools.product(range(0, 32, down), range(0, 48, across)):
        stream += bytes(whole[y : y + down, x : x + across, 0].astype(np.uint8).reshape(-1))
        stream += bytes(whole[y, x, 1:].astype(np.uint8))
    for compression in (LZW, DEFLATE, ZSTD):
        packed = COMPRESSORS[compression](bytes(stream))
        tags = jpeg_tags(6, 3, compression, tags={530: (SHORT, list(sampling))})
        assert np.abs(rgb_of("TIFF", file_of([packed], tags)) - ycc(whole)).max() <= 2
    tags = jpeg_tags(6, 3, NONE, tags={530: (SHORT, list(sampling))})
    words = "unsupported_format: a TIFF of YCbCr, 3 x 8 bits, uncompressed"
    assert refusal(file_of([bytes(stream)], tags)).startswith(words)


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_a_fax_is_decoded(compression) -> None:
    dots = ((X // 7 + Y // 5) % 2 * 255).astype(np.uint8)
    body = saved(Image.fromarray(dots).convert("1"), "TIFF", compression=compression)
    assert np.array_equal(rgb_of("TIFF", body), grey(dots[..., None]))


@pytest.mark.parametrize(
    ("lab", "expected"), [((255, 0, 0), (255, 255, 255)), ((136, 20, 10), (164, 114, 111))]
)
@pytest.mark.parametrize("compression", [NONE, LZW])
def test_lab_is_decoded(lab, expected, compression) -> None:
    """Its a* and b* are signed; the colours follow the formulas of CIE and sRGB."""
    body = tiff(np.full((4, 4, 3), lab), Layout(photometric=8, compression=compression))
    assert rgb_of("TIFF", body)[0, 0] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("compression", [34887, 34676, 34661, 50001, 50002, 7777])
def test_an_unsupported_compression_is_named(compression) -> None:
    body = file_of([bytes(99)], jpeg_tags(1, 1, compression))
    words = {34887: "LERC", 34676: "SGI log", 34661: "JBIG", 50001: "WebP", 50002: "JPEG XL"}
    name = words.get(compression, f"compression {compression}")
    expected = f"unsupported_format: a TIFF of grey, 1 x 8 bits, {name}, little-endian; "
    assert refusal(body) == expected + "docs/reference.md lists the supported TIFFs"


def test_samples_of_different_depths_are_refused_by_name() -> None:
    tags = jpeg_tags(2, 3) | {258: (SHORT, [5, 6, 5]), 259: (SHORT, [NONE])}
    assert "3 x 5/6 bits" in refusal(file_of([bytes(9999)], tags))
    tags = jpeg_tags(2, 3) | {339: (SHORT, [UNSIGNED, SIGNED, UNSIGNED]), 259: (SHORT, [NONE])}
    assert "3 x 8 signed bits" in refusal(file_of([bytes(9999)], tags))


# Palettes, and rotated pictures.


def test_a_palette_with_8_bit_values_is_recognised() -> None:
    """Old programs wrote 8-bit values into the 16-bit entries; libtiff applies the same rule."""
    entries = np.arange(256)
    layout = Layout(photometric=3, more={320: (SHORT, [*entries, *entries[::-1], *[7] * 256])})
    assert rgb_of("TIFF", tiff(np.full((2, 2, 1), 100), layout))[0, 0].tolist() == [100, 155, 7]


TURNED: dict[int, Callable[[Samples], Samples]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("compression", [NONE, LZW])
def test_the_orientation_of_a_tiff_is_applied(orientation, compression) -> None:
    layout = Layout(
        photometric=2, compression=compression, rows=5, more={274: (SHORT, [orientation])}
    )
    assert np.array_equal(rgb_of("TIFF", tiff(GRADIENT, layout)), TURNED[orientation](GRADIENT))


def test_a_picture_with_one_strip_per_row_is_decoded() -> None:
    samples = np.arange(60_000)[:, None, None] % 251
    layout = Layout(rows=1)
    assert np.array_equal(rgb_of("TIFF", tiff(samples, layout)), grey(samples))


def test_unsigned_samples_above_31_bits_do_not_become_negative() -> None:
    samples = np.array([[[0], [2**31], [2**32 - 1]]])
    assert rgb_of("TIFF", tiff(samples, Layout(bits=32)))[0, :, 0].tolist() == [0, 128, 255]
