"""Runs batches on a GPU: the next batch is copied while the last one is computed.

There are two lanes, each with memory on the CPU and the GPU. A batch is copied from pinned memory
on one stream, while another is computed on the other stream, as a CUDA graph if it can be captured.

After a persistent error, CUDA ends the process as soon as pinned memory is freed: torch then
records an event, whose error nothing can catch (pytorch pull request 178154). So each lane keeps
its pinned memory, including the answers, and a runner whose device is broken is never destroyed.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from resnext.errors import DeviceBroken
from resnext.run.engine import Forward
from resnext.run.faults import first_line, is_broken, is_out_of_memory
from resnext.run.layers.timer import RUNS_BEFORE_CAPTURE
from resnext.run.plans import timing_every_plan
from resnext.run.runner import Pixels, Started, Top, as_tensor

LANES: Final = 2

logger = logging.getLogger(__name__)


class _Lane:
    """Memory for a batch on the CPU and the GPU, and the batch that uses it now."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.pinned = _pinned(shape, torch.uint8)
        self.pixels = torch.empty(tuple(shape), dtype=torch.uint8, device=device)
        # By default, waiting for an event spins and occupies a core that loaders need.
        self.copied = torch.cuda.Event(blocking=True)
        self.done = torch.cuda.Event(blocking=True)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Top]] = {}
        self.answers: Top | None = None
        """Pinned memory for the answers. The first batch shows how many classes there are."""
        self.batch: _OnLane | None = None
        """The last batch on this lane. The next one must wait for its answers."""

    def fetch(self, top: Top, bucket: int) -> None:
        """Copies a batch's answers to the CPU as soon as they are ready."""
        if self.answers is None:
            rows = len(self.pixels)
            self.answers = _each(top, lambda one: _pinned((rows, *one.shape[1:]), one.dtype))
        for here, there in zip(self.answers, top, strict=True):
            here[:bucket].copy_(there, non_blocking=True)

    def free(self) -> None:
        """Waits for its batch, and moves the batch's answers out of the pinned memory."""
        if self.batch is not None:
            self.batch.result()


class _OnLane:
    """A batch on its lane. It copies its answers out when `result` is called."""

    def __init__(self, runner: CudaRunner, lane: _Lane, images: int) -> None:
        self._runner = runner
        self._lane = lane
        self._images = images
        self._top: Top | None = None

    def is_done(self) -> bool:
        if self._top is not None:
            return True
        try:
            return bool(self._lane.done.query())
        except RuntimeError:  # the device is broken; `result` raises this again
            return True

    def result(self) -> Top:
        if self._top is None:
            assert self._lane.answers is not None  # noqa: S101  (fetched by `start`)
            with self._runner.telling_broken():
                self._lane.done.synchronize()
            self._top = _each(self._lane.answers, lambda one: one[: self._images].clone())
        return self._top


class CudaRunner:
    """Owns the device's memory for batches, its two streams and the graphs."""

    lanes = LANES

    def __init__(
        self,
        forward: Forward,
        top: Callable[[Tensor], Top],
        shape: Sequence[int],
        device: torch.device,
    ) -> None:
        self._forward = forward
        self._top = top
        self._is_kept = False
        self._copying = torch.cuda.Stream(device)
        self._computing = torch.cuda.Stream(device)
        self._lanes = [_Lane(shape, device) for _ in range(LANES)]
        self.overwrites = 0
        self._turn = 0
        self._uncaptured = set[int]()
        """Sizes of batches that cannot be captured as a graph."""
        self._pool: Any = None

    def room(self) -> Pixels:
        lane = self._lanes[self._turn]
        with suppress(RuntimeError):  # the device is broken; `start` raises this again
            lane.copied.synchronize()  # the lane's last batch is copied to the GPU
        return lane.pinned.numpy()

    def start(self, images: Pixels, bucket: int) -> Started:
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % LANES
        with self.telling_broken(), torch.inference_mode():
            lane.free()
            self._copy(lane, images, bucket)
            with torch.cuda.stream(self._computing):
                self._computing.wait_event(lane.copied)
                lane.fetch(self._compute(lane, bucket), bucket)
                lane.done.record(self._computing)
        lane.batch = _OnLane(self, lane, len(images))
        return lane.batch

    def shrink(self, most: int) -> None:
        for lane in self._lanes:
            with suppress(RuntimeError):  # an error of the batch, whose owner gets it as well
                lane.free()
            lane.graphs = {size: made for size, made in lane.graphs.items() if size <= most}
        torch.cuda.empty_cache()

    @contextmanager
    def telling_broken(self) -> Iterator[None]:
        """Turns persistent errors into `DeviceBroken`.

        Raises:
            DeviceBroken: the device fails on everything from now on.
        """
        try:
            yield
        except DeviceBroken:
            raise
        except Exception as error:
            if not is_broken(error):
                raise
            self._keep_for_ever()
            raise DeviceBroken(first_line(error)) from error

    def _keep_for_ever(self) -> None:
        """Adds a reference that Python never drops; see the top of this file."""
        if not self._is_kept:
            self._is_kept = True
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _copy(self, lane: _Lane, images: Pixels, bucket: int) -> None:
        """Copies a batch to the GPU. Old pixels after its images are computed and ignored."""
        images = np.ascontiguousarray(images)
        if images.ctypes.data != lane.pinned.data_ptr():  # otherwise they are there already
            self.overwrites += 1
            lane.pinned[: len(images)].copy_(as_tensor(images))
        with torch.cuda.stream(self._copying):
            lane.pixels[:bucket].copy_(lane.pinned[:bucket], non_blocking=True)
            lane.copied.record(self._copying)

    def _compute(self, lane: _Lane, bucket: int) -> Top:
        if bucket not in lane.graphs and bucket not in self._uncaptured:
            self._capture(lane, bucket)
        if bucket in lane.graphs:
            graph, top = lane.graphs[bucket]
            graph.replay()
            return top
        return self._run(lane, bucket)

    def _run(self, lane: _Lane, bucket: int) -> Top:
        with timing_every_plan():
            return self._top(self._forward(lane.pixels[:bucket]))

    def _capture(self, lane: _Lane, bucket: int) -> None:
        """Captures a graph for this size, if possible.

        Raises:
            torch.OutOfMemoryError: the memory is too small for the graph.
        """
        for _ in range(RUNS_BEFORE_CAPTURE):
            self._run(lane, bucket)
        self._computing.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=self._memory_of_graphs(),
                stream=self._computing,
                # Other threads of this process may call CUDA meanwhile.
                capture_error_mode="thread_local",
            ):
                top = self._run(lane, bucket)
        except RuntimeError as error:
            if is_out_of_memory(error):  # an error at the end of the capture may hide this
                raise torch.OutOfMemoryError(first_line(error)) from error
            self._computing.synchronize()  # raises if the device is broken
            if not self._uncaptured:
                logger.warning(
                    "Running without CUDA graphs, so small batches are slower: %s", error
                )
            self._uncaptured.add(bucket)
        else:
            lane.graphs[bucket] = (graph, top)

    def _memory_of_graphs(self) -> Any:  # noqa: ANN401  (torch keeps its type to itself)
        """Memory that all graphs share: each is done, and its answers are copied, before the next
        one runs. It is freed with the last graph, and a later graph gets new memory.
        """
        if self._pool is None or not any(lane.graphs for lane in self._lanes):
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


def _pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def _each(top: Top, change: Callable[[Tensor], Tensor]) -> Top:
    return cast("Top", tuple(change(one) for one in top))
