"""The memory that a worker shares with one loader: a note, and a slot for each image.

Anonymous (`memfd`), so that nothing stays behind when a process is killed, and no limit of
`/dev/shm` counts. The note holds the slot whose image is being decoded: if the loader
crashes, it names the image.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

import numpy as np

from resnext.resample import Pixels

_NOTE: Final = struct.Struct("<I")  # slot + 1; 0: nothing is being decoded
_PAGE_BYTES: Final = mmap.PAGESIZE


class Slots:
    """`count` images of (crop, crop, 3) uint8."""

    def __init__(self, descriptor: int, *, count: int, crop: int) -> None:
        self.count = count
        self._shape = (crop, crop, 3)
        self._image_bytes = crop * crop * 3
        self._memory = mmap.mmap(descriptor, _PAGE_BYTES + count * self._image_bytes)

    @staticmethod
    def make(*, count: int, crop: int) -> int:
        """A descriptor of new memory; pages are taken when they are first written."""
        descriptor = os.memfd_create("resnext-slots", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _PAGE_BYTES + count * crop * crop * 3)
        return descriptor

    def pixels(self, slot: int) -> Pixels:
        """A view, not a copy; it keeps the memory alive."""
        start = _PAGE_BYTES + slot * self._image_bytes
        flat = np.frombuffer(self._memory, np.uint8, self._image_bytes, start)
        return flat.reshape(self._shape)

    def note(self, slot: int | None) -> None:
        _NOTE.pack_into(self._memory, 0, 0 if slot is None else slot + 1)

    def noted(self) -> int | None:
        """The slot under decode, as far as the loader says: check it."""
        (number,) = _NOTE.unpack_from(self._memory, 0)
        slot: int = number - 1
        return slot if 0 <= slot < self.count else None
