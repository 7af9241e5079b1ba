"""The classifier's predictions for a batch, as arrays, and the classes of each picture.

`resnext.classifier` makes them. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions for N pictures. K is 5, or the number of classes if there are fewer."""

    class_ids: np.ndarray
    """(N, K) int64, the most likely first; with equal scores, the lower class id first."""
    scores: np.ndarray
    """(N, K) float32, softmax probabilities."""
    finite: np.ndarray
    """(N,) bool. False if the network's scores are not finite numbers. The K classes of such a
    picture mean nothing."""


class Best(NamedTuple):
    """The most likely classes of one picture."""

    class_ids: list[int]
    scores: list[float]


def best_of_each(predictions: Predictions) -> Iterator[Best | None]:
    """Yields the classes of each picture in order, or None if its scores are not finite."""
    for class_ids, scores, finite in zip(
        predictions.class_ids.tolist(),
        predictions.scores.tolist(),
        predictions.finite.tolist(),
        strict=True,
    ):
        yield Best(class_ids, scores) if finite else None
