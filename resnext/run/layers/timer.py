"""How long something takes on a GPU.

`choose` asks. A run is captured as a CUDA graph, as the runner does it later: without one, small
batches would show how fast Python launches kernels, and not how fast the GPU is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol

import torch

# torch asks for a few runs before a capture, so that libraries have chosen their kernels.
RUNS_BEFORE_CAPTURE: Final = 3
_RUNS: Final = 10
"""In a graph."""
_REPLAYS: Final = 5


class Timer(Protocol):
    def seconds(self, run: Callable[[], object]) -> float:
        """That one run takes the device.

        Raises:
            Exception: what `run` raises, or that it cannot be captured.
        """

    def wait(self) -> None:
        """Until the device has done all that it was given.

        Raises:
            RuntimeError: it is broken.
        """


class CudaTimer:
    """Owns a stream, which captures need; CUDA starts with the first question."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def seconds(self, run: Callable[[], object]) -> float:
        self.wait()  # what `run` reads may come from another stream
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
