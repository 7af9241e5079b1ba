"""Measures how long a run takes on a GPU, for `choose`.

The run is captured as a CUDA graph, as in the runner. Without a graph, small batches would measure
how fast Python launches kernels, not how fast the GPU is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol

import torch

# torch requires a few runs before a capture, so that libraries have chosen their kernels.
RUNS_BEFORE_CAPTURE: Final = 3
_RUNS: Final = 10
"""The number of runs in a graph."""
_REPLAYS: Final = 5


class Timer(Protocol):
    def seconds(self, run: Callable[[], object]) -> float:
        """Returns the seconds that one run takes on the device.

        Raises:
            Exception: `run` raises it, or the run cannot be captured.
        """

    def wait(self) -> None:
        """Waits until the device has finished everything.

        Raises:
            RuntimeError: the device is broken.
        """


class CudaTimer:
    """Owns a stream, which captures need. CUDA starts at the first use."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def seconds(self, run: Callable[[], object]) -> float:
        self.wait()  # the inputs of `run` may come from another stream
        with torch.cuda.stream(self._stream):
            for _ in range(RUNS_BEFORE_CAPTURE):
                run()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            for _ in range(_RUNS):
                run()
        return statistics.median(self._replay_s(graph) for _ in range(_REPLAYS)) / _RUNS

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def _replay_s(self, graph: torch.cuda.CUDAGraph) -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._stream):
            began.record(self._stream)
            graph.replay()
            ended.record(self._stream)
        ended.synchronize()
        milliseconds: float = began.elapsed_time(ended)
        return milliseconds / 1000
