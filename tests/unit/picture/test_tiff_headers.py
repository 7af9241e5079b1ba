"""Headers of TIFFs that cost more than they look like, contradict themselves or end early."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from resnext.picture.file_bytes import Body
from resnext.picture.readers import READERS
from tests.pictures.shown import refusal
from tests.pictures.tiffs import Layout, tiff


def one_strip(*entries: tuple[int, int, int, int], content: bytes = bytes(100)) -> bytes:
    """10x10 pixels of grey, with these entries beside: number, type, count, value or offset."""
    usual = {
        256: (4, 1, 10), 257: (4, 1, 10), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, 10), 279: (4, 1, 100),
    }  # fmt: skip
    changed = {number: rest for number, *rest in entries}
    table = sorted([*((n, *v) for n, v in usual.items() if n not in changed), *entries])
    packed = b"".join(struct.pack("<HHII", *entry) for entry in table)
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    return head + content + struct.pack("<H", len(table)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("tag", "kind", "most"),
    [
        (273, 4, 200_000), (279, 4, 200_000), (324, 4, 200_000), (320, 3, 200_000),
        (258, 3, 64), (282, 5, 64), (274, 3, 64), (700, 12, 64), (34675, 5, 64), (338, 3, 64),
        (258, 1, 64), (256, 7, 64),
    ],
)  # fmt: skip
def test_more_numbers_than_anybody_writes_are_refused_before_one_is_read(tag, kind, most) -> None:
    """Pillow would make a Python number of each: four million strips took it a gigabyte."""
    count = 4_000_000
    body = one_strip((tag, kind, count, 8), content=bytes(8 * count))
    known = "begins as TIFF, but its header is damaged"
    words = f"tag {tag} has {count} values; at most {most} are read"
    assert refusal(body) == f"decode_error: {known}: {words}"


def test_exif_and_gps_of_any_size_are_left_alone() -> None:
    """A million fractions in a directory that no pixel depends on."""
    fractions = struct.pack("<HHII", 37386, 5, 10**6, 8)
    exif = struct.pack("<H", 1) + fractions + bytes(4)
    content = bytes(8 * 10**6) + exif
    body = one_strip((34665, 4, 1, 8 + 8 * 10**6), content=content)
    image = READERS["TIFF"](Body(body))
    image.load()
    assert image._exif is None


def test_a_tag_that_is_there_twice_is_refused() -> None:
    """Pillow and libtiff differ about which one counts."""
    body = one_strip((258, 3, 1, 8), (258, 3, 1, 1))
    assert refusal(body).endswith("its header is damaged: tag 258 is there twice")


@pytest.mark.parametrize("cut", [4, 7, 8, 110, 130])
def test_a_directory_that_is_cut_is_told_so(cut) -> None:
    body = one_strip()
    assert refusal(body[:cut]).startswith("truncated: ")


def test_values_beyond_the_end_are_told_as_cut() -> None:
    """Pillow would leave the tag out, and take eight bits for one."""
    assert refusal(one_strip((258, 3, 3, 10**6))) == "truncated: its directory is truncated"


def test_a_bigtiff_in_big_endian_order_is_refused_by_name() -> None:
    body = tiff(np.zeros((4, 4, 1)), Layout(order=">", big=True))
    assert refusal(body).startswith("unsupported_format: a BigTIFF of grey, 1 x 8 bits")
