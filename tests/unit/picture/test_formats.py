"""Files that are not decoded are named by their first bytes."""

from __future__ import annotations

import struct

import pytest

from tests.pictures.shown import refusal


def named(body: bytes) -> str:
    return refusal(body).partition(";")[0]


def ftyp(*brands: bytes) -> bytes:
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I4s", 8 + len(content), b"ftyp") + content + bytes(50)


def tga(kind: int, bits: int, *, palette: int = 0, identity: int = 0) -> bytes:
    colours = (0, 256 if palette else 0, 24 if palette else 0)
    head = struct.pack("<BBBHHBHHHHBB", identity, palette, kind, *colours, 0, 0, 4, 4, bits, 0)
    return head + bytes(900)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
LICENCE = b"<!-- " + b"licence " * 5000 + b"-->"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (SVG, "an SVG drawing"),
        (b"\xef\xbb\xbf\n" + SVG, "an SVG drawing"),
        (b'<?xml version="1.0"?>\n' + LICENCE + SVG, "an SVG drawing"),
        (LICENCE * 3 + b"<svg:svg xmlns:svg='x'>", "an SVG drawing"),
        (b'<!DOCTYPE svg PUBLIC "x" "y" [<!ENTITY a "b">]>' + SVG, "an SVG drawing"),
        (b"\0\0\1\0\1\0" + bytes(50), "a Windows icon"),
        (b"\0\0\2\0\1\0" + bytes(50), "a Windows cursor"),
        (tga(2, 24), "a TGA image"),
        (tga(10, 32, identity=20), "a TGA image"),
        (tga(1, 8, palette=1), "a TGA image"),
        (tga(3, 8), "a TGA image"),
        (b"anything" * 9 + b"TRUEVISION-XFILE.\0", "a TGA image"),
        (ftyp(b"mif3"), "a HEIF or AVIF image with a short header (mif3)"),
        (ftyp(b"avci", b"miaf"), "a HEIF image of H.264"),
        (ftyp(b"crx ", b"isom"), "a camera's raw image"),
        (ftyp(b"isom", b"mp42"), "an MP4 or QuickTime video"),
        (ftyp(b"M4A ", b"isom"), "an MP4 sound"),
    ],
)
def test_an_unsupported_image_format_is_named(body, words) -> None:
    assert named(body) == f"unsupported_format: {words}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><body><svg/>", "an HTML page"),
        (b"<!DOCTYPE html><svg/>", "an HTML page"),
        (b'<?xml version="1.0"?><svgs/>', "an XML text"),
        (b"<!-- no end", "no image format begins like this"),
        (b'<?xml version="1.0"?>' + b"<!---->" * 100_000 + SVG, "an XML text"),
        (b"\0\0\1\0\0\0" + bytes(50), "no image format begins like this"),
        (tga(2, 7), "no image format begins like this"),
        (tga(2, 24, palette=1), "no image format begins like this"),
        (bytes(50), "no image format begins like this"),
    ],
)
def test_a_file_that_only_looks_like_an_image_is_not_one(body, words) -> None:
    assert named(body) == f"not_an_image: {words}"


@pytest.mark.parametrize(
    "body", [b"<!--" * 5_000_000, b"<!doctype [" + b"]" * 20_000_000, b" " * 20_000_000 + SVG]
)
def test_a_text_of_megabytes_is_scanned_only_once(body) -> None:
    """Scanning it again from each position would take hours."""
    assert refusal(body).startswith(("not_an_image", "unsupported_format"))


def test_a_frame_beyond_the_limit_is_refused_by_its_pixels() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 128, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\2\x4c\1\0;"
    words = "too_many_pixels: Image size (3600000000 pixels)"
    assert named(screen + frame) == words
