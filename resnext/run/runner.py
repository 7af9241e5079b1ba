"""Runs batches of fixed sizes on a device. The classifier owns a runner.

Here is what both kinds promise, and the one of a CPU, where a batch is done when `start` returns.
The one of a GPU is `resnext.run.cuda_runner`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from resnext.run.engine import Forward

Pixels = np.ndarray
Top = tuple[Tensor, Tensor, Tensor]
"""Class ids (N, K) int64, scores (N, K) float32, whether they are finite (N,) bool."""

# With fewer for each core, it is better that all of them share each layer.
LEAST_IMAGES: Final = 8
# The activations of more are given back to the system after each layer, and faulted in again.
MOST_IMAGES: Final = 8


class Started(Protocol):
    """A batch on its way."""

    def is_done(self) -> bool: ...

    def result(self) -> Top:
        """On the CPU; waits for it."""


class Runner(Protocol):
    """One thread at a time."""

    lanes: int
    """So many batches in a row, each finished before the next, meet all of the runner's memory."""

    def room(self) -> Pixels:
        """Memory of the largest batch's shape that is the next batch's until its `start`: what
        is written here need not be copied before it goes to the device.
        """

    def start(self, images: Pixels, bucket: int) -> Started:
        """`images` (N, crop, crop, 3) uint8 are read before this returns; N ≤ bucket. They are
        the first N of `room`, or anything else.

        Raises:
            DeviceBroken: no batch will be computed any more in this process.
            torch.OutOfMemoryError, RuntimeError: from the device.
        """

    def shrink(self, most: int) -> None:
        """Gives memory back: larger batches than these do not come any more."""


@dataclass(frozen=True)
class _Done:
    top: Top

    def is_done(self) -> bool:
        return True

    def result(self) -> Top:
        return self.top


class CpuStreams:
    """Each core computes a part of the batch by itself, from the pixels to the logits.

    Where all cores share each layer they wait for each other after each, and whatever takes one
    of them for a moment, such as a loader, holds up all. Batches with too few images for that
    are computed by all cores together.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._streams = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._streams, "stream", _compute_alone)
        started = threading.Barrier(self._streams)
        list(self._pool.map(lambda _: started.wait(), range(self._streams)))
        torch.set_num_threads(self._streams)  # for threads that come later

    def __call__(self, pixels: Tensor) -> Tensor:
        if len(pixels) < self._streams * LEAST_IMAGES:
            return self._forward(pixels)
        return torch.cat(list(self._pool.map(self._compute, pixels.chunk(self._streams))))

    def _compute(self, pixels: Tensor) -> Tensor:
        parts = pixels.chunk(-(-len(pixels) // MOST_IMAGES))
        with torch.inference_mode():  # which a thread has for itself
            return torch.cat([self._forward(part) for part in parts])


def _compute_alone() -> None:
    """A thread keeps the number of helpers that was set when it was first asked for."""
    torch.set_num_threads(1)
    torch.get_num_threads()


class CpuRunner:
    """Owns the memory of one batch, which is read while `start` runs."""

    lanes = 1

    def __init__(
        self, forward: Forward, top: Callable[[Tensor], Top], shape: Sequence[int]
    ) -> None:
        self._forward = forward
        self._top = top
        self._room = np.empty(shape, np.uint8)

    def room(self) -> Pixels:
        return self._room

    def start(self, images: Pixels, bucket: int) -> Started:
        with torch.inference_mode():
            logits = self._forward(as_tensor(_padded(images, bucket)))
            return _Done(self._top(logits[: len(images)]))

    def shrink(self, most: int) -> None:
        """Nothing is kept for larger batches."""


def _padded(images: Pixels, bucket: int) -> Pixels:
    """Black pictures up to the bucket."""
    if bucket == len(images):
        return np.ascontiguousarray(images)
    padded = np.zeros((bucket, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    return padded


def as_tensor(images: Pixels) -> Tensor:
    """On the same memory; torch warns of arrays that may not be written."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())
