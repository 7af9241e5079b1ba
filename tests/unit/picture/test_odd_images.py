"""Hundreds of odd images end as pixels or as a listed error code, in limited memory.

A child process decodes them under a loader's limits. They are made anew each time (`odd_images`),
and the fuzzer (`make fuzz`) starts with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.failure import ERROR_CODES
from tests.pictures.decoder import LIMITS, Decoder, Ending, decoder
from tests.pictures.odd_images import KINDS, PIXELS, OddImage, odd_images
from worker.loader.program import BYTES_A_PIXEL

# What decoders load when they are first needed, and what malloc does not give back.
LIBRARIES_BYTES = 32 * 2**20

Endings = list[tuple[OddImage, Ending]]


@pytest.fixture(scope="module")
def child() -> Iterator[Decoder]:
    with decoder() as child:
        yield child


@pytest.fixture(scope="module")
def at_rest(child: Decoder) -> int:
    """The child's memory in bytes before the first image."""
    return child.decode(b"").peak_bytes


@pytest.fixture(scope="module")
def endings(child: Decoder, at_rest: int) -> Endings:
    return [(image, child.decode(image.body)) for image in odd_images()]


def test_there_are_enough_odd_images_and_no_two_share_a_name(endings: Endings) -> None:
    assert len(endings) >= 500
    assert len({image.name for image, _ in endings}) == len(endings)
    assert {kind[0] for kind in KINDS} == {
        *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
    }


def test_each_image_ends_as_pixels_or_as_one_of_its_permitted_codes(endings: Endings) -> None:
    """No crash, no hang, no `internal`; and intact images are decoded."""
    assert {image.name: end for image, end in endings if end.code not in image.endings} == {}
    assert {end.code for _, end in endings} <= {PIXELS, *ERROR_CODES} - {"internal"}
    assert len({end.code for _, end in endings}) >= 6


def test_no_image_takes_more_memory_than_its_pixels_need(endings: Endings, at_rest: int) -> None:
    most = at_rest + LIBRARIES_BYTES + LIMITS.max_pixels * BYTES_A_PIXEL
    excesses = {
        image.name: f"{end.peak_bytes >> 20} MiB, {most >> 20} are permitted"
        for image, end in endings
        if end.peak_bytes > most + 2 * len(image.body)
    }
    assert excesses == {}


def test_a_refusal_takes_almost_no_memory(endings: Endings) -> None:
    """Sizes are refused by the header, before any memory for pixels is allocated.

    This runs in a fresh child. Once large images have come and gone, malloc takes a WebP's canvas
    from its heap and clears it. In a fresh process, the canvas would be untouched pages of the
    kernel.
    """
    refused = [image for image, end in endings if end.code == "too_many_pixels"]
    assert len(refused) > 30
    with decoder() as fresh:
        for image in refused:  # loads what the decoders need
            fresh.decode(image.body)
        rest = fresh.decode(b"").peak_bytes
        for image in refused:
            peak = fresh.decode(image.body).peak_bytes
            assert peak < rest + 4 * 2**20 + 2 * len(image.body), image.name


def test_a_detail_is_one_readable_line(endings: Endings) -> None:
    for image, end in endings:
        assert (end.detail == "") == (end.code == PIXELS), image.name
        assert len(end.detail) < 300
        assert end.detail.isprintable()
        for leak in (" at 0x", "<", "/usr", "site-packages", "Traceback", "Errno"):
            assert leak not in end.detail, (image.name, end.detail)


def test_a_truncated_image_is_reported_as_truncated(endings: Endings) -> None:
    """Except for a TIFF whose palette is cut off: Pillow ignores that and fails later."""
    cut = [(image, end) for image, end in endings if " cut at " in image.name]
    assert len(cut) > 500
    others = {image.name: end for image, end in cut if end.code not in {PIXELS, "truncated"}}
    assert {name[: len("TIFF P")] for name in others} <= {"TIFF P"}
