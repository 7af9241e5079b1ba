"""Encodes which images of a chunk are not finished: one bit each, for `chunks.remaining`.

Offsets count from the chunk's first position; bit `k % 8` of byte `k // 8` is offset `k`.
"""

from collections.abc import Iterable


def all_of(images: int) -> bytes:
    return ((1 << images) - 1).to_bytes((images + 7) // 8, "little")


def encode(offsets: Iterable[int]) -> bytes:
    bits = 0
    for offset in offsets:
        bits |= 1 << offset
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def decode(remaining: bytes) -> list[int]:
    """The offsets, in order."""
    bits = int.from_bytes(remaining, "little")
    return [offset for offset in range(bits.bit_length()) if bits >> offset & 1]
