"""What is decoded, what is refused with which code and words, and what a setting changes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from resnext.picture.decode import Decoded, DecodeError, DecodeLimits, decode
from resnext.picture.resample import Pixels
from tests.pictures import odd_images as odd
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.odd_images import in_mode, photograph, saved

LIMITS = DecodeLimits(max_pixels=odd.MAX_PIXELS)


def decoded(body: bytes, limits: DecodeLimits = LIMITS) -> Decoded:
    return decode(body, limits=limits, preprocessing=PREPROCESSING)


def refusal(body: bytes, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(DecodeError) as refused:
        decoded(body, limits)
    return str(refused.value)


def run(program: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def colour(pixels: Pixels) -> tuple[int, ...]:
    assert (pixels == pixels[0, 0]).all()
    return tuple(pixels[0, 0].tolist())


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
)
def test_a_supported_format_is_decoded_and_named(file_format) -> None:
    odd.register_heif_opener()
    found = decoded(saved(photograph(64, 48), file_format))
    assert (found.format, found.width, found.height) == (file_format, 64, 48)


def test_an_mpo_decodes_as_the_jpeg_that_it_begins_with() -> None:
    body = saved(photograph(40, 30), "MPO", save_all=True, append_images=[photograph(40, 30)])
    assert decoded(body).format == "JPEG"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript document"),
        (b'<?xml version="1.0"?><svg/>', "an SVG drawing"),
        (b"\0\0\0\x20ftypisom", "an MP4 or QuickTime video"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image"),
    ],
)
def test_another_format_is_refused_by_name(body, words) -> None:
    expected = f"{words}; supported are JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIF"
    assert refusal(body) == f"unsupported_format: {expected}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no bytes at all"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "an HTML page"),
        (b"<html><body><svg/>", "an HTML page"),
        (b"BM is how this text begins", "no image format begins like this"),
        (b'{"error": 404}', "a text, perhaps JSON"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_what_it_is(body, words) -> None:
    assert refusal(body) == f"not_an_image: {words}"


def test_only_the_pillow_plugins_of_supported_formats_are_loaded() -> None:
    """For an unknown file, Pillow itself would load all its plugins, even Ghostscript's."""
    bodies = [odd.whole(kind) for kind in odd.KINDS if kind[0] in {"TIFF", "WEBP", "AVIF"}]
    bodies += [image.body for image in odd.strangers()]
    program = """
import json, sys
from resnext.picture.decode import DecodeError, DecodeLimits, decode
from resnext.picture.preprocess import Preprocessing
wanted = Preprocessing(256, 224, "bilinear", (0,) * 3, (1,) * 3)
endings = []
for body in map(bytes.fromhex, json.load(sys.stdin)):
    try:
        endings.append(decode(body, limits=DecodeLimits(), preprocessing=wanted).format)
    except DecodeError as error:
        endings.append(error.code)
print(*{name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")})
print(*set(endings))
"""
    done = run(program, json.dumps([body.hex() for body in bodies]))
    plugins, endings = (set(line.split()) for line in done.stdout.splitlines())
    listed = ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")
    assert plugins == {f"PIL.{name}ImagePlugin" for name in listed}
    assert endings == {"TIFF", "WEBP", "AVIF", "unsupported_format", "not_an_image"}


def test_without_the_extra_a_heif_is_refused_with_what_to_install() -> None:
    odd.register_heif_opener()
    body = saved(photograph(64, 48), "HEIF")
    program = (
        "import sys; sys.modules['pillow_heif'] = None;"
        "from resnext.picture.decode import *;"
        "from resnext.picture.preprocess import Preprocessing;"
        "wanted = Preprocessing(256, 224, 'bilinear', (0,) * 3, (1,) * 3);"
        f"decode({body!r}, limits=DecodeLimits(), preprocessing=wanted)"
    )
    done = run(program)
    words = "a HEIF image; the extra 'heif' of resnext-queue decodes it"
    assert f"unsupported_format: {words}" in done.stderr


SIZED = {
    "PNG": odd.png(3000, 2000, bytes(50)),
    "GIF": odd.gif(3000, 2000, frame=(0, 0, 1, 1)),
    "BMP": odd.bmp(3000, 2000, bytes(50)),
    "TIFF": odd.tiff(odd.grey_tags(3000, 2000)),
    "JPEG": saved(Image.new("L", (3000, 2000)), "JPEG"),
    "AVIF": saved(Image.new("L", (3000, 2000)), "AVIF", speed=10),
}


@pytest.mark.parametrize("name", SIZED)
def test_too_many_pixels_are_refused_with_the_size_and_the_limit(name) -> None:
    with pytest.raises(DecodeError) as refused:
        decoded(SIZED[name])
    assert refused.value.code == "too_many_pixels"
    assert refused.value.detail == "3000x2000; at most 4000000 pixels are decoded"
    assert (refused.value.format, refused.value.size) == (name, (3000, 2000))


def test_exactly_the_permitted_number_of_pixels_is_decoded() -> None:
    for pixels in (6, 7):  # even and odd, since Pillow's own limit is set to half
        for file_format in ("PNG", "WEBP", "GIF"):
            body = saved(Image.new("L", (pixels, 1)), file_format)
            assert decoded(body, DecodeLimits(max_pixels=pixels)).width == pixels
            assert "too_many_pixels" in refusal(body, DecodeLimits(max_pixels=pixels - 1))


def test_a_side_has_its_own_limit() -> None:
    body = saved(Image.new("L", (101, 1)), "PNG")
    assert decoded(body, DecodeLimits(max_side_pixels=101)).width == 101
    words = "101x1; a side has at most 100 pixels"
    assert refusal(body, DecodeLimits(max_side_pixels=100)) == f"too_many_pixels: {words}"


def test_a_crop_of_a_huge_picture_counts_as_the_whole() -> None:
    """A HEIF may show 64x48 pixels of 16000x16000, which must all be decoded.

    The same holds for a TIFF that shows a part of a tile.
    """
    odd.register_heif_opener()
    body = saved(photograph(64, 48), "HEIF")
    huge = odd.replaced(body, body.index(b"ispe") + 8, struct.pack(">II", 16000, 16000))
    assert refusal(huge).startswith("too_many_pixels: 64x48; cut out of 256000000 pixels")


HEADERS_WITHOUT_END = {
    "JPEG": saved(photograph(64, 48), "JPEG")[:2] + odd.jpeg_segment(0xEF, b"") * 50_000,
    "PNG": odd.png_header(10, 10) + odd.png_chunk(b"tEXt", b"k\0t") * 50_000,
    "GIF": odd.gif(10, 10, before=b"!\xfe\1x\0" * 50_000),
    "TIFF": odd.tiff([(30_000 + n % 30_000, 4, 1, n) for n in range(50_000)]),
}


@pytest.mark.parametrize("name", HEADERS_WITHOUT_END)
def test_a_header_with_too_many_parts_is_refused(name) -> None:
    words = f"begins as {name}, but its header is damaged: more than 20000 parts before its pixels"
    assert refusal(HEADERS_WITHOUT_END[name]) == f"decode_error: {words}"


# Truncated files.


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_setting_accepts_what_is_left_of_a_truncated_file(file_format) -> None:
    accepting = DecodeLimits(truncated="accept")
    options = {"interlace": 0} if file_format == "GIF" else {}
    whole = saved(photograph(300, 300), file_format, **options)
    cut = whole[: len(whole) * 2 // 3]
    assert refusal(cut).startswith("truncated: ")
    expected = decoded(whole).pixels
    rows = (decoded(cut, accepting).pixels == expected).all(axis=(1, 2))
    assert 100 < rows.sum() < 224
    assert np.array_equal(decoded(whole, accepting).pixels, expected)


def test_a_damaged_chunk_is_not_reported_as_truncated() -> None:
    body = odd.png(10, 10, bytes(110), before=odd.png_chunk(b"tRNS", b""))
    assert refusal(body).startswith("decode_error: begins as PNG, but its header is damaged")


def test_pillows_own_settings_are_restored(monkeypatch) -> None:
    """`predict` runs in processes that may use Pillow themselves."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123_456_789)
    for body in (saved(photograph(64, 48), "PNG"), b"words"):
        try:
            decoded(body, DecodeLimits(max_pixels=10**6, truncated="accept"))
        except DecodeError:
            assert body == b"words"
        now = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        assert now == (123_456_789, False)


# Errors of decoders.


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "too_many_pixels: more memory than a loader may take"),
        (EOFError("no more"), "truncated: its parts contradict each other"),
        (IndexError("index out of range"), "decode_error: its parts contradict each other"),
        (RecursionError(), "decode_error: its parts contradict each other"),
        (
            OSError("cannot read <_io.BytesIO object at 0x7f00dead>"),
            "decode_error: cannot read the file",
        ),
        (ValueError("red \x1b[31m\nand more"), "decode_error: red [31m"),
        (ValueError("x" * 1000), f"decode_error: {'x' * 200}"),
    ],
)
def test_any_error_of_a_decoder_becomes_a_code_and_one_line(monkeypatch, error, expected) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(TiffImageFile, "load", fail)
    assert refusal(saved(photograph(64, 48), "TIFF")) == expected


# Other data in a file that concerns its pixels.


def test_only_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (30, 30), name) for name in ("red", "lime", "blue")]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        body = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        red, green, blue = colour(decoded(body).pixels)
        assert red > 250
        assert max(green, blue) < 5


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_the_rotation_of_exif_is_ignored(file_format) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = (saved(photograph(60, 40), file_format, **o) for o in ({}, {"exif": exif}))
    assert np.array_equal(decoded(plain).pixels, decoded(turned).pixels)


def test_tiff_and_heif_readers_apply_the_rotation_themselves() -> None:
    odd.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = saved(photograph(128, 64), "HEIF")
    # Replaces a box with the bits of each channel, which no reader needs.
    heif = odd.replaced(body, body.index(b"pixi"), b"irot\1")
    for turned in (saved(photograph(128, 64), "TIFF", exif=exif), heif):
        found = decoded(turned)
        assert (found.width, found.height) == (64, 128)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparent_pixels_become_white_in_every_format_that_has_them(file_format) -> None:
    odd.register_heif_opener()
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert min(colour(decoded(saved(clear, file_format)).pixels)) >= 254


@pytest.mark.parametrize(
    ("value", "expected"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_is_ink_on_white_whether_adobe_inverted_it_or_not(
    file_format, value, expected
) -> None:
    body = saved(Image.new("CMYK", (32, 32), value), file_format)
    found = colour(decoded(body).pixels)
    assert np.abs(np.subtract(found, expected)).max() <= 2


def test_16_bit_samples_keep_the_highest_8_bits() -> None:
    raw = b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x00FF) * 1
    assert colour(decoded(odd.png(1, 1, raw, 16, 2)).pixels)[:2] == (255, 128)
    grey = in_mode(Image.new("RGB", (8, 8), (128, 128, 128)), "I;16")
    assert colour(decoded(saved(grey, "PNG")).pixels) == (128, 128, 128)


# The route `fast`.


def test_the_fast_route_gives_the_same_codes_and_nearly_the_same_pixels() -> None:
    """For odd JPEGs: those that torchvision's decoder cannot read take the exact route."""
    colour = saved(photograph(64, 48), "JPEG")
    bodies = dict(odd.lying_jpegs()) | {
        **{f"cut at {tenth}": colour[: len(colour) * tenth // 10] for tenth in range(1, 10)},
        **{f"flipped {seed}": odd.flipped(colour, seed) for seed in range(40)},
        **{odd.name_of(kind): odd.whole(kind) for kind in odd.KINDS if kind[0] == "JPEG"},
    }
    codes, apart = {}, {}
    for name, body in bodies.items():
        exact, fast = (_ending(body, route) for route in ("exact", "fast"))
        if isinstance(exact, str) or isinstance(fast, str):
            codes[name] = (exact, fast)
        else:
            apart[name] = np.abs(exact.astype(int) - fast.astype(int)).mean()
    assert {name: both for name, both in codes.items() if both[0] is not both[1]} == {}
    assert {name: by for name, by in apart.items() if by > 2} == {}
    assert len(codes) > 30
    assert len(apart) > 30


def test_the_exact_route_reads_what_the_fast_one_cannot() -> None:
    whole = saved(photograph(300, 300), "JPEG")
    accepting = DecodeLimits(truncated="accept")
    by = [
        decode(whole[:-2000], limits=accepting, preprocessing=PREPROCESSING, route=route).pixels
        for route in ("exact", "fast")
    ]
    assert np.array_equal(*by)


def _ending(body: bytes, route: str) -> Pixels | str:
    try:
        return decode(body, limits=LIMITS, preprocessing=PREPROCESSING, route=route).pixels
    except DecodeError as error:
        return error.code
