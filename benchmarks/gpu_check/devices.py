"""The classifier on a GPU or, if the machine has none, on a double of CUDA.

`lanes` and `faults` run the same on both. On the double a picture's class is its first byte, and
nothing takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu_check import network
from benchmarks.gpu_check.steps.exactness import MARGIN
from resnext import Classifier
from resnext.predictions import Predictions
from tests.doubles.cuda import Cuda, make_classifier, pictures

GPU_BATCH: Final = 256
DOUBLE_BATCH: Final = 32
# Largest difference of a score between a picture alone in a batch and in a larger batch.
SCORE: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A classifier that is not warmed up, and pictures with known answers."""

    make: Callable[[], Classifier]
    pictures: np.ndarray
    """(K, crop, crop, 3) uint8."""
    double: Cuda | None
    """None on a GPU."""

    def table(self, classifier: Classifier) -> Predictions:
        """The answer to each picture alone in a batch."""
        each = [classifier.classify(self.pictures[k : k + 1]) for k in range(len(self.pictures))]
        ids, scores, finite = zip(
            *((one.class_ids, one.scores, one.finite) for one in each), strict=True
        )
        return Predictions(np.concatenate(ids), np.concatenate(scores), np.concatenate(finite))


def wrong(found: Predictions, table: Predictions, sent: np.ndarray) -> int:
    """Counts answers that do not match the pictures sent; `sent` has their rows in the table."""
    ids, scores = table.class_ids[sent], table.scores[sent]
    clear = scores[:, 0] - scores[:, 1] > MARGIN
    other = clear & (found.class_ids[:, 0] != ids[:, 0])
    off = np.abs(found.scores - scores).max(axis=1) > SCORE
    return int((other | off | ~found.finite).sum())


def find(scratch: Path) -> Tried:
    if torch.cuda.is_available():
        pixels = np.concatenate([network.photographs(), network.noise(24)])
        return Tried(
            make=lambda: network.load(scratch, engine="eager", batch_images=GPU_BATCH),
            pictures=pixels,
            double=None,
        )
    cuda = Cuda()
    cuda.install(setattr)  # until this process ends
    return Tried(
        make=lambda: make_classifier(cuda, DOUBLE_BATCH), pictures=pictures(*range(64)), double=cuda
    )


@contextmanager
def counting_captures() -> Iterator[list[Any]]:
    """Collects the graphs that any thread captures meanwhile."""
    captured: list[Any] = []
    capture = torch.cuda.graph

    def counted(graph: Any, *arguments: Any, **options: Any) -> Any:
        captured.append(graph)
        return capture(graph, *arguments, **options)

    torch.cuda.graph = counted  # type: ignore[assignment, misc]
    try:
        yield captured
    finally:
        torch.cuda.graph = capture  # type: ignore[misc]
