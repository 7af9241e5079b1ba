"""A chunk's unsettled images as bits: none is lost on the way to SQL and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.remaining import all_of, decode, encode

OFFSETS = st.sets(st.integers(min_value=0, max_value=255))


@given(OFFSETS)
def test_offsets_come_back_in_order(offsets) -> None:
    assert decode(encode(offsets)) == sorted(offsets)


@given(OFFSETS, OFFSETS)
def test_equal_offsets_give_equal_bytes(one, other) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(st.integers(min_value=0, max_value=256))
def test_at_first_all_images_remain(images) -> None:
    assert decode(all_of(images)) == list(range(images))
    assert len(all_of(images)) == (images + 7) // 8


@given(OFFSETS, st.integers(min_value=0, max_value=40))
def test_bytes_of_zeros_at_the_end_mean_nothing(offsets, zeros) -> None:
    assert decode(encode(offsets) + bytes(zeros)) == sorted(offsets)


def test_no_remaining_images_are_no_bytes() -> None:
    assert encode(()) == b""
    assert decode(b"") == []


def test_an_offset_is_the_documented_bit() -> None:
    assert encode([0, 9]) == b"\x01\x02"
