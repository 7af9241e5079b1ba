"""Runs batches of fixed sizes on a device, the next one copied while the last one computes.

The classifier owns one. On CUDA there are two lanes, each with its own memory on both sides:
a batch is copied from pinned memory on one stream while another computes on the other, as a
CUDA graph where it can be captured. On a CPU a batch is done when `start` returns.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from resnext.run.engine import Forward

Pixels = np.ndarray
Top = tuple[Tensor, Tensor, Tensor]
"""Class ids (N, K) int64, scores (N, K) float32, whether they are finite (N,) bool."""

LANES: Final = 2
# With fewer for each core, it is better that all of them share each layer.
LEAST_IMAGES: Final = 8
# torch asks for a few runs before a capture, so that libraries have chosen their kernels.
RUNS_BEFORE_CAPTURE: Final = 3

logger = logging.getLogger(__name__)


class Started(Protocol):
    """A batch on its way."""

    def is_done(self) -> bool: ...

    def result(self) -> Top:
        """On the CPU; waits for it."""


class Runner(Protocol):
    """One thread at a time."""

    def room(self) -> Pixels:
        """Memory of the largest batch's shape that is the next batch's until its `start`: what
        is written here need not be copied before it goes to the device.
        """

    def start(self, images: Pixels, bucket: int) -> Started:
        """`images` (N, crop, crop, 3) uint8 are read before this returns; N ≤ bucket. They are
        the first N of `room`, or anything else.

        Raises:
            torch.OutOfMemoryError, RuntimeError: from the device.
        """


def make_runner(
    forward: Forward,
    top: Callable[[Tensor], Top],
    shape: Sequence[int],
    device: torch.device,
    *,
    in_streams: bool,
) -> Runner:
    """
    Args:
        forward: pixels to logits, on the device.
        top: logits to the best classes.
        shape: of the largest batch, (N, crop, crop, 3).
        device: CUDA or a CPU.
        in_streams: on a CPU, see `CpuStreams`; `forward` may then be called by several threads.
    """
    if device.type == "cuda":
        return CudaRunner(forward, top, shape, device)
    return CpuRunner(CpuStreams(forward) if in_streams else forward, top, shape)


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
        if self._streams == 1 or len(pixels) < self._streams * LEAST_IMAGES:
            return self._forward(pixels)
        return torch.cat(list(self._pool.map(self._compute, pixels.chunk(self._streams))))

    def _compute(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():  # which a thread has for itself
            return self._forward(pixels)


def _compute_alone() -> None:
    """A thread keeps the number of helpers that was set when it was first asked for."""
    torch.set_num_threads(1)
    torch.get_num_threads()


class CpuRunner:
    """Owns the memory of one batch, which is read while `start` runs."""

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
            logits = self._forward(_tensor_of(_padded(images, bucket)))
            return _Done(self._top(logits[: len(images)]))


def _padded(images: Pixels, bucket: int) -> Pixels:
    """Black pictures up to the bucket."""
    if bucket == len(images):
        return np.ascontiguousarray(images)
    padded = np.zeros((bucket, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    return padded


def _tensor_of(images: Pixels) -> Tensor:
    """On the same memory; torch warns of arrays that may not be written."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())


class _Lane:
    """What a batch passes through, on both sides. Free again once `done` has happened."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.pinned = torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=True)
        self.pixels = torch.empty(tuple(shape), dtype=torch.uint8, device=device)
        self.copied = torch.cuda.Event()
        self.done = torch.cuda.Event()
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Top]] = {}


@dataclass(frozen=True)
class _OnLane:
    done: torch.cuda.Event
    top: Top
    images: int

    def is_done(self) -> bool:
        try:
            return bool(self.done.query())
        except RuntimeError:  # a device that is broken: `result` raises it again
            return True

    def result(self) -> Top:
        self.done.synchronize()
        ids, scores, finite = (tensor[: self.images] for tensor in self.top)
        return ids, scores, finite


class CudaRunner:
    """Owns the device's memory for batches, its two streams and the graphs."""

    def __init__(
        self,
        forward: Forward,
        top: Callable[[Tensor], Top],
        shape: Sequence[int],
        device: torch.device,
    ) -> None:
        self._forward = forward
        self._top = top
        self._copying = torch.cuda.Stream(device)
        self._computing = torch.cuda.Stream(device)
        self._lanes = [_Lane(shape, device) for _ in range(LANES)]
        self._turn = 0
        self._graphs = True
        # One memory for all graphs: each is done, and its answers copied, before the next runs.
        self._pool = torch.cuda.graph_pool_handle()
        torch.backends.cudnn.benchmark = True  # sizes are few and fixed

    def room(self) -> Pixels:
        lane = self._lanes[self._turn]
        with suppress(RuntimeError):  # of a device that is broken: `start` raises it again
            lane.copied.synchronize()  # of the batch before the last
        return lane.pinned.numpy()

    def start(self, images: Pixels, bucket: int) -> Started:
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % LANES
        lane.done.synchronize()  # of the batch before the last
        # What the last batch left beyond the images is classified as well, and dropped.
        pixels = _tensor_of(images)
        if pixels.data_ptr() != lane.pinned.data_ptr():  # else they are there already
            lane.pinned[: len(images)].copy_(pixels)
        with torch.inference_mode(), torch.cuda.stream(self._copying):
            lane.pixels[:bucket].copy_(lane.pinned[:bucket], non_blocking=True)
            lane.copied.record(self._copying)
        with torch.inference_mode(), torch.cuda.stream(self._computing):
            self._computing.wait_event(lane.copied)
            on_device = self._compute(lane, bucket)
            # A new pinned block each time: torch keeps it until the copy into it is over.
            ids, scores, finite = (_to_pinned(tensor) for tensor in on_device)
            done = torch.cuda.Event()
            done.record(self._computing)
        lane.done = done
        return _OnLane(done, (ids, scores, finite), len(images))

    def _compute(self, lane: _Lane, bucket: int) -> Top:
        if self._graphs and bucket not in lane.graphs:
            self._capture(lane, bucket)
        if bucket in lane.graphs:
            graph, top = lane.graphs[bucket]
            graph.replay()
            return top
        return self._run(lane, bucket)

    def _run(self, lane: _Lane, bucket: int) -> Top:
        return self._top(self._forward(lane.pixels[:bucket]))

    def _capture(self, lane: _Lane, bucket: int) -> None:
        for _ in range(RUNS_BEFORE_CAPTURE):
            self._run(lane, bucket)
        self._computing.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._computing):
                top = self._run(lane, bucket)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graphs = False
            logger.warning("No CUDA graphs, which costs small batches time: %s", error)
            return
        lane.graphs[bucket] = (graph, top)


def _to_pinned(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
