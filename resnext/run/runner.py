"""Runs batches of fixed sizes on a device. The classifier owns a runner.

This file has the interface, and the runner for a CPU, where a batch is done when `start` returns.
The runner for a GPU is `resnext.run.cuda_runner`.
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
"""Class ids (N, K) int64, scores (N, K) float32, and whether they are finite (N,) bool."""

# With fewer images per core, it is faster if all cores share each layer.
LEAST_IMAGES: Final = 8
# With more images, the activations are returned to the system after each layer and faulted in
# again.
MOST_IMAGES: Final = 8


class Started(Protocol):
    """A batch in flight."""

    def is_done(self) -> bool: ...

    def result(self) -> Top:
        """Waits for the answers, which are on the CPU."""


class Runner(Protocol):
    """The interface of a runner. Only one thread may use it at once."""

    lanes: int
    """This many batches in a row, each finished before the next, use all of the runner's memory."""
    overwrites: int
    """How often a batch from other memory was copied into a `room`."""

    def room(self) -> Pixels:
        """Memory with the shape of the largest batch, for the next batch until its `start`. A batch
        that is written here need not be copied before it goes to the device.
        """

    def start(self, images: Pixels, bucket: int) -> Started:
        """Starts a batch. `images`, (N, crop, crop, 3) uint8 with N ≤ bucket, are read before this
        returns. They are the first N of `room`, or in other memory.

        Raises:
            DeviceBroken: this process can compute no more batches.
            torch.OutOfMemoryError, RuntimeError: the device failed.
        """

    def shrink(self, most: int) -> None:
        """Frees memory, because no more batches are larger than `most`."""


@dataclass(frozen=True)
class _Done:
    top: Top

    def is_done(self) -> bool:
        return True

    def result(self) -> Top:
        return self.top


class CpuStreams:
    """Each core computes a part of the batch alone, from the pixels to the logits.

    If all cores share each layer, they wait for each other after each layer, and a loader that
    occupies one core for a moment delays all. Batches with too few images are still computed by
    all cores together.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._streams = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._streams, "stream", _compute_alone)
        started = threading.Barrier(self._streams)
        list(self._pool.map(lambda _: started.wait(), range(self._streams)))
        torch.set_num_threads(self._streams)  # for threads that start later

    def __call__(self, pixels: Tensor) -> Tensor:
        if len(pixels) < self._streams * LEAST_IMAGES:
            return self._forward(pixels)
        return torch.cat(list(self._pool.map(self._compute, pixels.chunk(self._streams))))

    def _compute(self, pixels: Tensor) -> Tensor:
        parts = pixels.chunk(-(-len(pixels) // MOST_IMAGES))
        with torch.inference_mode():  # each thread has its own mode
            return torch.cat([self._forward(part) for part in parts])


def _compute_alone() -> None:
    """Makes a thread compute alone. It keeps the number of helpers that its first query sees."""
    torch.set_num_threads(1)
    torch.get_num_threads()


class CpuRunner:
    """Owns the memory for one batch, which `start` reads."""

    lanes = 1
    overwrites = 0

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
        """Does nothing, because nothing is kept for larger batches."""


def _padded(images: Pixels, bucket: int) -> Pixels:
    """Adds black pictures up to the bucket's size."""
    if bucket == len(images):
        return np.ascontiguousarray(images)
    padded = np.zeros((bucket, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    return padded


def as_tensor(images: Pixels) -> Tensor:
    """Returns a tensor on the same memory. Copies read-only arrays, about which torch warns."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())
