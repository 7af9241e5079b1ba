"""The memory that a worker shares with one loader: a note, and a frame for each image's pixels.

The memory is anonymous (`memfd`), so nothing is left when a process is killed, and the limit of
`/dev/shm` does not apply. The note names the slot whose image is being decoded. If the loader
crashes or decodes for too long, the note identifies the image.

An image has a slot from its URI on, but a frame only once it is decoded, because most images in
flight wait for the network. The loader takes the lowest free frame, so only as many frames take
memory as held pixels at the same time. A byte per frame says whether it is taken: the loader sets
it, and the worker clears it after it has copied the pixels.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np

from resnext.picture.resample import Pixels

_NOTE: Final = struct.Struct("<II")  # number of the decode; slot + 1, or 0 if there is none
_DECODES: Final = 2**32
_PAGE_BYTES: Final = mmap.PAGESIZE
_FREE: Final = b"\0"
_TAKEN: Final = b"\1"
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Note:
    """The image that a loader is decoding."""

    decode: int
    """A new number for each decode, because a slot is soon used again."""
    slot: int


class Slots:
    """`count` slots, and as many frames of (crop, crop, 3) uint8."""

    def __init__(self, descriptor: int, *, count: int, crop: int) -> None:
        self.count = count
        self._shape = (crop, crop, 3)
        self._image_bytes = crop * crop * 3
        self._memory = mmap.mmap(descriptor, _size(count, crop))
        self._frames = range(_PAGE_BYTES, _PAGE_BYTES + count)  # the bytes that say which are taken
        self._views = [self._view(frame) for frame in range(count)]
        self._decodes = 0

    @staticmethod
    def make(*, count: int, crop: int) -> int:
        """Returns a descriptor of new memory. A page takes memory only when it is first written."""
        descriptor = os.memfd_create("resnext-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, _size(count, crop))
        # Otherwise a loader that was taken over could truncate it, and the worker would crash.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor

    def pixels(self, frame: int) -> Pixels:
        """Returns a view, not a copy. It keeps the memory alive."""
        return self._views[frame]

    def take_frame(self) -> int:
        """Takes a free frame. The loader calls this, in one thread.

        Raises:
            RuntimeError: all frames are taken. This cannot happen while each has its own slot.
        """
        found = self._memory.find(_FREE, self._frames.start, self._frames.stop)
        if found < 0:
            raise RuntimeError(f"all {self.count} frames are taken")
        self._memory[found : found + 1] = _TAKEN
        return found - self._frames.start

    def free_frame(self, frame: int) -> None:
        """Frees a frame. The worker calls this before it reuses the image's slot."""
        at = self._frames[frame]
        self._memory[at : at + 1] = _FREE

    def _view(self, frame: int) -> Pixels:
        start = _frames_begin(self.count) + frame * self._image_bytes
        flat = np.frombuffer(self._memory, np.uint8, self._image_bytes, start)
        return flat.reshape(self._shape)

    def note(self, slot: int | None) -> None:
        """Notes the slot of the current decode. The loader calls this before and after each one."""
        self._decodes = (self._decodes + (slot is not None)) % _DECODES
        _NOTE.pack_into(self._memory, 0, self._decodes, 0 if slot is None else slot + 1)

    def noted(self) -> Note | None:
        """The image that the loader claims to decode. Check that its slot has a request."""
        decode, number = _NOTE.unpack_from(self._memory, 0)
        return Note(decode, number - 1) if 0 < number <= self.count else None


def _size(count: int, crop: int) -> int:
    return _frames_begin(count) + count * crop * crop * 3


def _frames_begin(count: int) -> int:
    """The first byte after the note's page and the pages with a byte for each frame."""
    return _PAGE_BYTES + ceil(count / _PAGE_BYTES) * _PAGE_BYTES
