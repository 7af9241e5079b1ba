"""The classes of each picture in a batch."""

from __future__ import annotations

import numpy as np

from resnext.predictions import Best, Predictions, best_of_each


def test_each_picture_has_its_classes_in_order_or_none() -> None:
    predictions = Predictions(
        class_ids=np.array([[7, 2], [0, 1], [3, 4]]),
        scores=np.array([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]], np.float32),
        finite=np.array([True, False, True]),
    )
    assert list(best_of_each(predictions)) == [
        Best([7, 2], [0.75, 0.25]),
        None,
        Best([3, 4], [1.0, 0.0]),
    ]
