"""What the classifier says of a batch: arrays, and the classes of each picture in them.

`resnext.classifier` makes them. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Of a batch of N pictures; K is 5, or the number of classes where there are fewer."""

    class_ids: np.ndarray
    """(N, K) int64, the likeliest first; of equal scores the lower class id."""
    scores: np.ndarray
    """(N, K) float32, softmax probabilities."""
    finite: np.ndarray
    """(N,) bool; False where the network's scores are no finite numbers. The K classes of such a
    picture mean nothing."""


class Best(NamedTuple):
    """The likeliest classes of one picture."""

    class_ids: list[int]
    scores: list[float]


def best_of_each(predictions: Predictions) -> Iterator[Best | None]:
    """The classes of each picture, in their order; None where its scores are not finite."""
    for class_ids, scores, finite in zip(
        predictions.class_ids.tolist(),
        predictions.scores.tolist(),
        predictions.finite.tolist(),
        strict=True,
    ):
        yield Best(class_ids, scores) if finite else None
