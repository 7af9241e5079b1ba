"""The API and the decoder agree on what a picture is, although neither imports the other."""

from __future__ import annotations

import pytest
from pillow_heif import register_heif_opener

from producer.api.incoming import ending_of
from resnext.picture.formats import sniff
from tests.pictures.odd_images import whole_images

FORMATS = {
    ".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".tif": "TIFF", ".webp": "WEBP", ".bmp": "BMP",
    ".avif": "AVIF", ".heic": "HEIF",
}  # fmt: skip


def test_the_api_takes_every_format_that_is_decoded() -> None:
    register_heif_opener()
    seen = set()
    for image in whole_images():
        ending = ending_of(image.body[:64])
        assert ending is not None, image.name
        assert FORMATS[ending] == sniff(image.body), image.name
        seen.add(ending)
    assert seen >= set(FORMATS)


@pytest.mark.parametrize("text", [b"", b"BM", b"BMW and others, as a text", b"<html>", b"RIFF0000"])
def test_other_bytes_are_no_picture(text: bytes) -> None:
    assert ending_of(text) is None
