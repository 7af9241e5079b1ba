"""Hundreds of odd images, each of which ends as pixels or as a code of the list, in bounded memory.

A child decodes them under the limits of a loader. They are made anew each time (`odd_images`),
and the fuzzer (`make fuzz`) begins with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.failure import ERROR_CODES
from tests.pictures.decoder import LIMITS, Decoder, Ending, decoder
from tests.pictures.odd_images import KINDS, PIXELS, OddImage, odd_images
from worker.loader.program import BYTES_A_PIXEL

# Of what decoders load and keep once they are needed, and of what malloc does not give back.
LIBRARIES_BYTES = 32 * 2**20

Endings = list[tuple[OddImage, Ending]]


@pytest.fixture(scope="module")
def child() -> Iterator[Decoder]:
    with decoder() as child:
        yield child


@pytest.fixture(scope="module")
def at_rest(child: Decoder) -> int:
    """Bytes of memory, before the first image."""
    return child.decode(b"").peak_bytes


@pytest.fixture(scope="module")
def endings(child: Decoder, at_rest: int) -> Endings:
    return [(image, child.decode(image.body)) for image in odd_images()]


def test_there_are_as_many_odd_images_as_promised_and_each_is_another(endings: Endings) -> None:
    assert len(endings) >= 500
    assert len({image.name for image, _ in endings}) == len(endings)
    assert {kind[0] for kind in KINDS} == {
        *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
    }


def test_each_ends_as_pixels_or_as_a_code_of_those_that_it_may_have(endings: Endings) -> None:
    """No crash, no hang, no `internal`; and what is whole is decoded."""
    assert {image.name: end for image, end in endings if end.code not in image.endings} == {}
    assert {end.code for _, end in endings} <= {PIXELS, *ERROR_CODES} - {"internal"}
    assert len({end.code for _, end in endings}) >= 6


def test_none_takes_more_memory_than_its_pixels_account_for(endings: Endings, at_rest: int) -> None:
    most = at_rest + LIBRARIES_BYTES + LIMITS.max_pixels * BYTES_A_PIXEL
    excesses = {
        image.name: f"{end.peak_bytes >> 20} MiB, {most >> 20} are permitted"
        for image, end in endings
        if end.peak_bytes > most + 2 * len(image.body)
    }
    assert excesses == {}


def test_a_refusal_takes_next_to_no_memory(child: Decoder, endings: Endings) -> None:
    """Sizes are refused by the header, before there is memory for the pixels. (A WebP has its
    canvas before a side is looked at, and that has no more pixels than are permitted.)
    """
    rest = child.decode(b"").peak_bytes
    refused = [(image, end) for image, end in endings if end.code == "too_many_pixels"]
    assert len(refused) > 30
    for image, end in refused:
        if "a side has at most" in end.detail:
            continue
        assert child.decode(image.body).peak_bytes < rest + 4 * 2**20 + 2 * len(image.body)


def test_a_detail_is_a_line_for_people(endings: Endings) -> None:
    for image, end in endings:
        assert (end.detail == "") == (end.code == PIXELS), image.name
        assert len(end.detail) < 300
        assert end.detail.isprintable()
        for leak in (" at 0x", "<", "/usr", "site-packages", "Traceback", "Errno"):
            assert leak not in end.detail, (image.name, end.detail)


def test_what_is_cut_is_told_so(endings: Endings) -> None:
    """But for a TIFF whose palette is gone: Pillow leaves it out, and stumbles later."""
    cut = [(image, end) for image, end in endings if " cut at " in image.name]
    assert len(cut) > 500
    others = {image.name: end for image, end in cut if end.code not in {PIXELS, "truncated"}}
    assert {name[: len("TIFF P")] for name in others} <= {"TIFF P"}
