"""The C resampler: equal to Pillow to the bit, used where it is built, and optional."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from resnext.picture import preprocess
from resnext.picture.decode import DecodeLimits, decode
from resnext.picture.preprocess import resize_and_crop
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.odd_images import photograph, saved
from tests.pictures.sanitized import find_compiler

if preprocess.native is None and find_compiler() is None:
    pytest.skip("no C compiler, so no extension: Pillow resizes", allow_module_level=True)
try:
    from resnext.picture import _resample, native
    from tests.pictures.resampling import run_case, window_of_pillow
except ImportError as error:
    raise AssertionError(f"The extension is not built ({error}): run `make setup`.") from error

# Sizes of the pictures before and after resizing, and the window that is wanted.
WINDOWS = [
    ((1, 1), (256, 256), (16, 16, 240, 240)),
    ((1, 1), (1, 1), (0, 0, 1, 1)),
    ((1, 9), (7, 5), (2, 1, 5, 5)),
    ((9, 1), (5, 7), (0, 0, 5, 7)),
    ((2, 3), (256, 384), (16, 80, 240, 304)),
    ((3, 2), (300, 200), (299, 199, 300, 200)),
    ((4, 4), (3, 3), (0, 0, 3, 3)),
    ((5, 4), (5, 4), (1, 1, 4, 3)),
    ((5, 400), (5, 40), (0, 3, 5, 40)),
    ((400, 5), (40, 5), (3, 0, 40, 5)),
    ((500, 375), (341, 256), (58, 16, 282, 240)),
    ((375, 500), (256, 341), (16, 58, 240, 282)),
    ((501, 377), (343, 257), (59, 17, 284, 240)),
    ((640, 480), (640, 256), (101, 3, 338, 240)),
    ((640, 480), (256, 480), (1, 1, 256, 480)),
    ((300, 1300), (256, 1109), (16, 443, 239, 667)),
    ((1500, 1100), (23, 17), (0, 0, 23, 17)),
    ((3000, 20), (3, 2), (1, 0, 3, 2)),
    ((20, 3000), (2, 3), (0, 1, 2, 3)),
    ((2100, 2100), (256, 256), (16, 16, 240, 240)),
    ((1100, 4100), (256, 954), (16, 365, 240, 589)),
]


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("old", "new", "box"), WINDOWS, ids=str)
def test_a_window_equals_pillows_to_the_bit(old, new, box, interpolation) -> None:
    image = noise(*old)
    expected = window_of_pillow(image, new, box, interpolation)
    assert np.array_equal(expected, native.resample_window(image, new, box, interpolation))


def test_random_windows_weights_and_passes_equal_pillows() -> None:
    for seed in range(1500):
        run_case(seed)


def test_a_picture_of_several_blocks_is_read_in_strips() -> None:
    image = noise(2100, 2100)
    with pytest.raises(ValueError, match=r"not contiguous|blocks"):
        image.__arrow_c_array__()
    expected = window_of_pillow(image, (256, 256), (16, 16, 240, 240), "bilinear")
    found = native.resample_window(image, (256, 256), (16, 16, 240, 240), "bilinear")
    assert np.array_equal(expected, found)


@pytest.mark.parametrize("size", [(333, 250), (250, 1333)])
def test_rows_with_pillows_alignment_are_read_correctly(size) -> None:
    before = Image.core.get_alignment()
    Image.core.set_alignment(64)
    try:
        image = noise(*size)
        expected = window_of_pillow(image, (256, 256), (16, 16, 240, 240), "bilinear")
        found = native.resample_window(image, (256, 256), (16, 16, 240, 240), "bilinear")
    finally:
        Image.core.set_alignment(before)
    assert np.array_equal(expected, found)


def test_a_picture_in_another_librarys_memory_is_read() -> None:
    own = noise(60, 40)
    image = Image.fromarrow(own, "RGB", own.size)
    expected = window_of_pillow(own, (30, 20), (3, 4, 28, 20), "bicubic")
    del own
    assert np.array_equal(
        expected, native.resample_window(image, (30, 20), (3, 4, 28, 20), "bicubic")
    )


def test_threads_do_not_disturb_each_other() -> None:
    images = [noise(width, 200) for width in range(150, 190)]
    arguments = ((256, 256), (16, 16, 240, 240), "bilinear")
    expected = [window_of_pillow(image, *arguments) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(lambda image: native.resample_window(image, *arguments), images * 4)
        )
    assert all(map(np.array_equal, expected * 4, found))


# It is used, but not required.


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("size", [(500, 375), (301, 499), (64, 48), (120, 700)], ids=str)
def test_a_file_gives_the_same_pixels_with_the_extension_and_without(
    file_format, mode, size, monkeypatch
) -> None:
    image = photograph(*size).convert("RGB" if file_format in {"WEBP", "AVIF"} else mode)
    body = saved(image.convert("L") if (file_format, mode) == ("JPEG", "P") else image, file_format)
    limits = DecodeLimits()
    found = decode(body, limits=limits, preprocessing=PREPROCESSING).pixels
    monkeypatch.setattr(preprocess, "native", None)
    expected = decode(body, limits=limits, preprocessing=PREPROCESSING).pixels
    assert np.array_equal(expected, found)


def test_every_picture_uses_the_extension(monkeypatch) -> None:
    def unexpected(*arguments: object) -> None:
        raise AssertionError("Pillow resizes")

    monkeypatch.setattr(Image.Image, "resize", unexpected)
    monkeypatch.setattr(preprocess, "resample_window", unexpected)
    for size in ((500, 375), (256, 256), (3, 2), (5000, 2), (224, 300)):
        assert resize_and_crop(noise(*size), PREPROCESSING).shape == (224, 224, 3)


def test_without_the_extension_the_pixels_are_the_same() -> None:
    program = (
        "import sys; sys.modules['resnext.picture._resample'] = None\n"
        "from hashlib import sha256\n"
        "from resnext.picture import preprocess\n"
        "from resnext.picture.decode import DecodeLimits, decode\n"
        "assert preprocess.native is None\n"
        "wanted = preprocess.Preprocessing(256, 224, 'bilinear', (0.5,) * 3, (0.5,) * 3)\n"
        "body = sys.stdin.buffer.read()\n"
        "made = decode(body, limits=DecodeLimits(), preprocessing=wanted)\n"
        "sys.stdout.buffer.write(made.pixels.tobytes())\n"
    )
    body = saved(photograph(400, 300), "JPEG")
    done = subprocess.run(
        [sys.executable, "-c", program], input=body, capture_output=True, check=True
    )
    expected = decode(body, limits=DecodeLimits(), preprocessing=PREPROCESSING).pixels
    assert done.stdout == expected.tobytes()


# Pillow's memory.


def borrowed(image: Image.Image, height: int | None = None) -> np.ndarray:
    pair = image.__arrow_c_array__()
    return np.asarray(_resample.Borrowed(*pair, height or image.height, image.width))


def test_borrowed_pixels_are_pillows_own_and_outlive_the_picture() -> None:
    image = Image.new("RGB", (640, 480), (1, 2, 3))
    pixels = borrowed(image)
    image.paste((4, 5, 6), (0, 0, 640, 480))
    assert (pixels[..., :3] == (4, 5, 6)).all()
    del image
    gc.collect()
    others = [Image.new("RGB", (640, 480), (7, 8, 9)) for _ in range(8)]
    assert (pixels[..., :3] == (4, 5, 6)).all()
    assert len(others) == 8


def test_borrowed_pixels_cannot_be_written() -> None:
    assert not borrowed(noise(4, 4)).flags.writeable
    out = _resample.Borrowed(*noise(4, 4).__arrow_c_array__(), 4, 4)
    with pytest.raises(BufferError, match="to be read"):
        _resample.vertical(noise_array(4, 4), out, b"", b"", 0)


def test_a_picture_lends_its_memory_once_per_export() -> None:
    pair = noise(4, 4).__arrow_c_array__()
    _resample.Borrowed(*pair, 4, 4)
    with pytest.raises(ValueError, match="does not hold 4 x 4 pixels"):
        _resample.Borrowed(*pair, 4, 4)


@pytest.mark.parametrize(
    ("mode", "rows", "words"),
    [
        ("RGB", 5, "does not hold 4 x 5 pixels: its length is 16"),
        ("RGB", 3, "does not hold 4 x 3 pixels: its length is 16"),
        ("RGB", 0, "4 x 0 are no size"),
        ("RGB", -4, "4 x -4 are no size"),
        ("RGB", 2**62, "are no size"),
        ("L", 4, "pixels must be .w:4 of C, got C"),
        ("F", 4, "pixels must be .w:4 of C, got f"),
    ],
)
def test_pixels_of_another_size_or_type_are_not_borrowed(mode, rows, words) -> None:
    pair = Image.new(mode, (4, 4)).__arrow_c_array__()
    with pytest.raises(ValueError, match=words):
        _resample.Borrowed(*pair, rows, 4)


def test_other_capsules_are_not_borrowed() -> None:
    schema, array = noise(4, 4).__arrow_c_array__()
    with pytest.raises(ValueError, match="incorrect name"):
        _resample.Borrowed(array, schema, 4, 4)
    with pytest.raises(ValueError, match="invalid PyCapsule"):
        _resample.Borrowed(None, None, 4, 4)


# Refusals before a pixel is touched.


def noise_array(height: int, width: int, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def positions(*first: int) -> np.ndarray:
    return np.array(first, np.int64)


def weights(*of_each: list[int]) -> np.ndarray:
    return np.array(of_each, np.int32)


HALVES = [2**21, 2**21]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"source": noise_array(6, 5)[0]}, "source must have 3 dimensions of bytes, got 2 of 1"),
        ({"source": noise_array(6, 5).astype(np.int16)}, "got 3 of 2 bytes"),
        ({"source": noise_array(6, 5, 2)}, "source must have 3 or 4 channels, got 2"),
        ({"source": noise_array(6, 10)[:, ::2]}, "must lie side by side, got strides 8, 1"),
        ({"source": noise_array(6, 5)[..., ::-1]}, "must lie side by side, got strides 4, -1"),
        ({"source": noise_array(6, 4)}, "taps 1 are 2 pixels from 3 on, outside of the 4"),
        ({"source": noise_array(0, 5)}, "must become"),
        ({"out": noise_array(6, 3)}, r"\(6, 5, 4\) of source must become \(6, 2, 3 or 4\)"),
        ({"out": noise_array(5, 2)}, "must become"),
        ({"first": positions(0, 4)}, "taps 1 are 2 pixels from 4 on, outside of the 5 there are"),
        ({"first": positions(-1, 0)}, "taps 0 are 2 pixels from -1 on"),
        ({"first": positions(0, 2**63 - 1)}, "taps 1 are 2 pixels from -1 on"),
        ({"first": positions()}, "first must be int64 and weights int32 for each, got 0 and 16"),
        ({"first": b"123"}, "got 3 and 16 bytes"),
        ({"first": positions(0, 1, 2)}, "got 24 and 16 bytes"),
        ({"weights": weights()}, "got 16 and 0 bytes"),
        ({"weights": weights([1] * 6, [1] * 6)}, "taps 0 are 6 pixels from 0 on"),
        ({"weights": weights(HALVES, [2**23, 1 << 20])}, "taps 1 must add up to at most 8413"),
        ({"weights": weights(HALVES, [-(2**31), 0])}, "got 2147483648"),
        ({"origin": -1}, "origin must be at least 0, got -1"),
        ({"origin": 1}, "taps 0 are 2 pixels from -1 on"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_reason(changed, words) -> None:
    arguments = {
        "source": noise_array(6, 5),
        "out": noise_array(6, 2),
        "first": positions(0, 3),
        "weights": weights(HALVES, HALVES),
        "origin": 0,
    }
    _resample.horizontal(*arguments.values())
    before = arguments["out"].copy()
    with pytest.raises(ValueError, match=words):
        _resample.horizontal(*(arguments | changed).values())
    assert np.array_equal(before, arguments["out"])


def test_three_channels_can_be_resized_vertically_but_not_horizontally() -> None:
    source, out = noise_array(6, 5, 3), noise_array(2, 5, 3)
    _resample.vertical(source, out, positions(0, 3), weights(HALVES, HALVES), 0)
    with pytest.raises(ValueError, match="out of 4 channels"):
        _resample.horizontal(source, out, positions(0, 3), weights(HALVES, HALVES), 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 10, 0, 10, "bilinear"), "at least 1 and at most 2147483647 .* got 0 and 10"),
        ((10, 0, 0, 10, "bilinear"), "got 10 and 0"),
        ((2**31, 10, 0, 10, "bilinear"), "got 2147483648 and 10"),
        ((10, 2**52 + 1, 0, 10, "bilinear"), "got 10 and 4503599627370497"),
        ((10, 10, -1, 10, "bilinear"), "pixels -1 to 10 are no part of 10"),
        ((10, 10, 0, 11, "bilinear"), "pixels 0 to 11 are no part of 10"),
        ((10, 10, 5, 5, "bilinear"), "pixels 5 to 5 are no part of 10"),
        ((10, 10, 0, 10, "lanczos"), "must be bilinear or bicubic, got lanczos"),
    ],
)
def test_weights_for_impossible_sizes_are_refused(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        _resample.weigh(*arguments)


def test_more_weights_than_pillow_accepts_are_refused() -> None:
    with pytest.raises(MemoryError, match="2 pixels of 214748365"):
        _resample.weigh(2**31 - 1, 20, 10, 12, "bilinear")


def test_weights_of_a_picture_far_longer_than_a_32_bit_number() -> None:
    found = native.weigh(2**31 - 1, 2**40, 2**40 - 3, 2**40, "bicubic")
    assert found.end == 2**31 - 1
    assert found.weights.sum(axis=1).tolist() == pytest.approx([2**22] * 3, abs=4)
