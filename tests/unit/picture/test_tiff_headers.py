"""TIFF headers that cost more than they seem to, contradict themselves or end early."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from resnext.picture.file_bytes import Body
from resnext.picture.readers import READERS
from tests.pictures.shown import refusal
from tests.pictures.tiffs import Layout, tiff


def one_strip(*entries: tuple[int, int, int, int], content: bytes = bytes(100)) -> bytes:
    """A grey TIFF of 10x10 pixels with extra entries: number, type, count, value or offset."""
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
def test_too_many_values_are_refused_before_any_is_read(tag, kind, most) -> None:
    """Pillow would make each a Python number: for four million strips it needed a gigabyte."""
    count = 4_000_000
    body = one_strip((tag, kind, count, 8), content=bytes(8 * count))
    known = "begins as TIFF, but its header is damaged"
    words = f"tag {tag} has {count} values; at most {most} are permitted"
    assert refusal(body) == f"decode_error: {known}: {words}"


def test_exif_and_gps_of_any_size_are_not_read() -> None:
    """The directory holds a million fractions, and no pixel depends on it."""
    fractions = struct.pack("<HHII", 37386, 5, 10**6, 8)
    exif = struct.pack("<H", 1) + fractions + bytes(4)
    content = bytes(8 * 10**6) + exif
    body = one_strip((34665, 4, 1, 8 + 8 * 10**6), content=content)
    image = READERS["TIFF"](Body(body))
    image.load()
    assert image._exif is None


def test_a_repeated_tag_is_refused() -> None:
    """Pillow and libtiff disagree about which of the two counts."""
    body = one_strip((258, 3, 1, 8), (258, 3, 1, 1))
    assert refusal(body).endswith("its header is damaged: tag 258 occurs twice")


@pytest.mark.parametrize("cut", [4, 7, 8, 110, 130])
def test_a_truncated_directory_is_reported(cut) -> None:
    body = one_strip()
    assert refusal(body[:cut]).startswith("truncated: ")


def test_values_beyond_the_end_of_the_file_count_as_truncated() -> None:
    """Pillow would ignore the tag, and read eight bits as one."""
    assert refusal(one_strip((258, 3, 3, 10**6))) == "truncated: its directory is truncated"


def test_a_bigtiff_in_big_endian_order_is_refused_by_name() -> None:
    body = tiff(np.zeros((4, 4, 1)), Layout(order=">", big=True))
    assert refusal(body).startswith("unsupported_format: a BigTIFF of grey, 1 x 8 bits")
