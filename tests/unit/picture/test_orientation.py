"""`RESNEXT_ORIENTATION`: the eight orientations of EXIF, and EXIFs that say nothing."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from resnext.picture.decode import Decoded, DecodeError, DecodeLimits, decode
from resnext.picture.orientation import UPRIGHT, read_orientation
from resnext.picture.preprocess import resize_and_crop
from tests.pictures import odd_images as odd
from tests.pictures.decoder import PREPROCESSING
from tests.pictures.odd_images import photograph, saved

# EXIF 3.0, "Orientation": where the stored picture's first row and first column are shown.
SHOWN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
# The picture is stored losslessly, except in JPEG, whose stored pixels are read back.
FORMATS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}}
WIDTH, HEIGHT = 61, 40


def shown(stored: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
    """(height, width, 3) → the picture as it should be shown, by the words of the standard."""
    row, column = SHOWN[value]
    picture = stored if row in {"top", "bottom"} else stored.swapaxes(0, 1)
    if "bottom" in {row, column}:
        picture = picture[::-1]
    if "right" in {row, column}:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def exif_of(
    value: int, *, order: str = "<", tag: int = 0x0112, kind: int = 3, count: int = 1
) -> bytes:
    """An EXIF with one entry, as a camera writes it."""
    entry = struct.pack(f"{order}HHIHxx", tag, kind, count, value)
    return directory([entry], order=order)


def directory(entries: list[bytes], *, order: str = "<", number: int | None = None) -> bytes:
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    number = len(entries) if number is None else number
    head = magic + struct.pack(f"{order}IH", 8, number)
    return head + b"".join(entries) + bytes(4)


def picture(file_format: str, exif: bytes | None = None) -> bytes:
    options = FORMATS.get(file_format, {})
    more = {} if exif is None else {"exif": b"Exif\0\0" + exif}
    return saved(photograph(WIDTH, HEIGHT), file_format, **options, **more)


def decoded(body: bytes, orientation: str = "exif", route: str = "exact") -> Decoded:
    return decode(
        body,
        limits=DecodeLimits(),
        preprocessing=PREPROCESSING,
        route=route,
        orientation=orientation,
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", SHOWN)
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_is_turned_before_it_is_resized(file_format, value, order) -> None:
    """The pixels equal those of the turned array; resizing first would differ in a last bit."""
    body = picture(file_format, exif_of(value, order=order))
    stored = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    upright = shown(stored, value)
    found = decoded(body)
    expected = resize_and_crop(Image.fromarray(upright), PREPROCESSING)
    assert np.array_equal(expected, found.pixels)
    assert (found.height, found.width) == upright.shape[:2]


@pytest.mark.parametrize("value", SHOWN)
@pytest.mark.parametrize("file_format", FORMATS)
def test_by_default_pixels_stay_as_stored(file_format, value) -> None:
    found = decoded(picture(file_format, exif_of(value)), "ignore")
    assert np.array_equal(decoded(picture(file_format)).pixels, found.pixels)
    assert (found.width, found.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("value", SHOWN)
def test_the_fast_route_turns_like_the_exact_one(value) -> None:
    body = picture("JPEG", exif_of(value))
    exact, fast = (decoded(body, route=route) for route in ("exact", "fast"))
    assert np.abs(exact.pixels.astype(int) - fast.pixels).max() <= 2
    assert (fast.width, fast.height) == (exact.width, exact.height)
    if value != UPRIGHT:
        stored = decoded(body, "ignore", "fast")
        assert np.abs(stored.pixels.astype(int) - fast.pixels).max() > 20


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_may_have_its_exif_before_or_after_its_pixels(place) -> None:
    whole = picture("PNG")
    at = whole.index({"before": b"IDAT", "behind": b"IEND"}[place]) - 4
    body = whole[:at] + odd.png_chunk(b"eXIf", exif_of(6)) + whole[at:]
    found = decoded(body)
    assert (found.width, found.height) == (HEIGHT, WIDTH)
    assert np.array_equal(decoded(picture("PNG", exif_of(6))).pixels, found.pixels)


def test_the_exif_of_a_webp_may_begin_with_the_jpeg_marker_or_not() -> None:
    body = picture("WEBP", exif_of(6))
    assert b"Exif\0\0" not in body
    at = body.index(b"EXIF")
    marked = b"Exif\0\0" + exif_of(6)
    rest = body[at:].replace(odd.webp_chunk(b"EXIF", exif_of(6)), odd.webp_chunk(b"EXIF", marked))
    longer = body[:at] + rest
    resized = longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:]
    for one in (body, resized):
        assert decoded(one).width == HEIGHT


@pytest.mark.parametrize("orientation", ["ignore", "exif"])
def test_a_rotation_that_the_format_demands_is_done_once_with_any_setting(orientation) -> None:
    """This is TIFF's own tag, and irot in a HEIF."""
    odd.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    tiff = saved(photograph(WIDTH, HEIGHT), "TIFF", exif=exif)
    stored = np.asarray(photograph(WIDTH, HEIGHT))
    expected = resize_and_crop(Image.fromarray(shown(stored, 6)), PREPROCESSING)
    found = decoded(tiff, orientation)
    assert np.array_equal(expected, found.pixels)
    assert (found.width, found.height) == (HEIGHT, WIDTH)
    plain = saved(photograph(128, 64), "HEIF", exif=exif_of(1))
    heif = odd.replaced(plain, plain.index(b"pixi"), b"irot\1")
    found = decoded(heif, orientation)
    assert (found.width, found.height) == (64, 128)


def test_the_exif_in_a_heif_does_not_change_its_orientation() -> None:
    """ISO 23008-12: only irot and imir count."""
    odd.register_heif_opener()
    plain = saved(photograph(128, 64), "HEIF", exif=exif_of(1))
    turned = plain.replace(exif_of(1), exif_of(6))
    assert turned != plain
    assert np.array_equal(decoded(plain).pixels, decoded(turned).pixels)


def test_an_avif_is_not_turned_a_second_time() -> None:
    """Pillow reports its irot as if it were in an EXIF."""
    body = saved(photograph(WIDTH, HEIGHT), "AVIF", exif=exif_of(6))
    assert b"irot" in body
    assert read_orientation(Image.open(io.BytesIO(body)).info["exif"]) == 6
    ignoring, turning = (decoded(body, orientation) for orientation in ("ignore", "exif"))
    assert np.array_equal(ignoring.pixels, turning.pixels)
    assert (ignoring.width, ignoring.height) == (turning.width, turning.height)


# A damaged EXIF counts as none.

DAMAGED = {
    "nothing": b"",
    "only a marker": b"Exif\0\0",
    "no byte order": b"XX*\0" + exif_of(6)[4:],
    "only a byte order": b"II*\0",
    "a directory beyond the end": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "cut off in the number of entries": exif_of(6)[:9],
    "cut off in its entry": exif_of(6)[:-8],
    "value 0": exif_of(0),
    "value 9": exif_of(9),
    "value 65535": exif_of(65535),
    "a text": exif_of(6, kind=2),
    "a rational": exif_of(6, kind=5),
    "two values": exif_of(6, count=2),
    "no value": exif_of(6, count=0),
    "a billion values": exif_of(6, count=2**32 - 1),
    "another tag": exif_of(6, tag=0x0113),
    "a directory that begins in the header": b"II*\0" + struct.pack("<I", 0) + exif_of(6)[8:],
    "more entries than there are": directory([], number=65535),
    "the wrong byte order": b"MM\0*" + exif_of(6)[4:],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_exif_counts_as_none(name) -> None:
    assert read_orientation(DAMAGED[name]) == UPRIGHT
    for file_format in FORMATS:
        found = decoded(picture(file_format, DAMAGED[name]))
        assert np.array_equal(decoded(picture(file_format)).pixels, found.pixels)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*", b"Exif\0\0II*\0\x08\0\0\0"])
)
def test_any_bytes_give_a_valid_orientation(rest, head) -> None:
    assert read_orientation(head + rest) in SHOWN


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", SHOWN)
def test_pillow_finds_the_same_orientation(value, order) -> None:
    exif = Image.Exif()
    exif.load(exif_of(value, order=order))
    assert exif[0x0112] == value == read_orientation(exif_of(value, order=order))


# A hostile EXIF costs nothing.


def hostile_exif(body_bytes: int) -> bytes:
    """An EXIF with 5,000 entries that each point to all of it.

    Reading it fully would read it 5,000 times.
    """
    entry = struct.pack("<HHIHH", 0x010E, 2, body_bytes, 0, 0)
    return directory([entry] * 5000)


def test_only_the_first_thousand_entries_are_read() -> None:
    other = struct.pack("<HHIHxx", 0x010F, 3, 1, 6)
    mine = exif_of(6)[10:22]
    assert read_orientation(directory([*[other] * 999, mine])) == 6
    assert read_orientation(directory([*[other] * 1000, mine])) == UPRIGHT


@pytest.mark.parametrize("orientation", ["ignore", "exif"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_pillows_readers_do_not_read_an_exif(file_format, orientation, monkeypatch) -> None:
    """Pillow copies what each entry points to, and the EXIF of a JPEG may have a million bytes."""
    bodies = [picture(file_format, exif_of(6)), picture(file_format, hostile_exif(60_000))]

    def fail(*_: object) -> None:
        pytest.fail("Pillow reads the EXIF")

    monkeypatch.setattr(ImageFileDirectory_v2, "load", fail)
    wide, _ = (decoded(body, orientation) for body in bodies)
    assert (wide.width > wide.height) == (orientation == "ignore")


def test_an_exif_that_points_back_to_itself_ends() -> None:
    """Directories may also follow each other in a circle; only the first one is read."""
    exif = directory([struct.pack("<HHIHxx", 0x8769, 4, 1, 8)])
    loop = exif[:-4] + struct.pack("<I", 8)
    for file_format in FORMATS:
        found = decoded(picture(file_format, loop))
        assert np.array_equal(decoded(picture(file_format)).pixels, found.pixels)


def test_the_compressed_exif_of_a_png_is_not_unpacked() -> None:
    """ImageMagick once wrote it like this, in a text chunk. No viewer uses it."""
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n26\n" + exif_of(6).hex().encode())
    whole = picture("PNG")
    at = whole.index(b"IDAT") - 4
    body = whole[:at] + odd.png_chunk(b"zTXt", text) + whole[at:]
    assert decoded(body).width == WIDTH


def test_a_picture_that_fails_reports_the_size_in_its_header() -> None:
    with pytest.raises(DecodeError) as refused:
        decode(
            picture("JPEG", exif_of(6)),
            limits=DecodeLimits(max_pixels=100),
            preprocessing=PREPROCESSING,
            orientation="exif",
        )
    assert refused.value.size == (WIDTH, HEIGHT)
