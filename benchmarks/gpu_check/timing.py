"""Measures images per second on a GPU, with as many batches in flight as a worker has."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch

from resnext import Classifier
from resnext.classifier import Pending

ROUND_S: Final = 1.0
ROUNDS: Final = 3
_BEFORE: Final = 4  # batches that do not count
_IN_FLIGHT: Final = 2


class Batches(Protocol):
    def go(self) -> None:
        """Starts a batch, and waits until no more than two are in flight."""

    def finish(self) -> None:
        """Waits for all batches."""


@dataclass
class Replaying:
    """Replays a CUDA graph, without copies."""

    graph: Any
    stream: Any
    _events: deque[Any] = field(default_factory=deque)

    def go(self) -> None:
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            self.graph.replay()
        event = torch.cuda.Event(blocking=True)
        event.record(self.stream)
        self._events.append(event)
        if len(self._events) > _IN_FLIGHT:
            self._events.popleft().synchronize()

    def finish(self) -> None:
        self.stream.synchronize()


class Serving:
    """Calls the classifier like a worker's batcher, except that the pixels are copied into its
    memory beforehand.
    """

    def __init__(self, classifier: Classifier, images: np.ndarray) -> None:
        self._classifier = classifier
        self._size = len(images)
        self._in_flight: deque[Pending] = deque()
        for _ in range(classifier._runner.lanes):
            classifier.room()[: self._size] = images
            self.go()

    def go(self) -> None:
        room = self._classifier.room()
        self._in_flight.append(self._classifier.start(room[: self._size]))
        if len(self._in_flight) > _IN_FLIGHT:
            self._in_flight.popleft().result()

    def finish(self) -> None:
        while self._in_flight:
            self._in_flight.popleft().result()


@dataclass(frozen=True)
class Calling:
    """Anything that runs a batch and waits for it."""

    run: Callable[[], object]

    def go(self) -> None:
        self.run()

    def finish(self) -> None:
        """Nothing is in flight."""


def images_per_s(batches: Batches, size: int, seconds: float = ROUND_S) -> float:
    for _ in range(_BEFORE):
        batches.go()
    batches.finish()
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        batches.go()
        done += 1
    batches.finish()
    return done * size / (time.perf_counter() - began)


def in_rounds(
    contenders: dict[str, tuple[Batches, int]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Images/s of each contender, round by round, so that other load affects all of them."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (batches, size) in contenders.items():
            found[name].append(images_per_s(batches, size))
    return found


def told(rates: Sequence[float]) -> dict[str, Any]:
    """Median and spread, for a figure."""
    return {
        "value": statistics.median(rates),
        "unit": f"images/s ({min(rates):,.0f} to {max(rates):,.0f})",
        "details": {"rounds": list(rates)},
    }
