"""From measured rows to the costs of a chunk, an image and a second."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation.calibration import fit, solve


def row(chunk: int, images: int, seconds: float, workers: int) -> dict[str, object]:
    """What a part would have spent with 2 ms a chunk, 10 µs an image and 5 ms a second."""
    spent = 0.002 * images / chunk + 10e-6 * images + 0.005 * seconds * workers
    return {
        "workers": workers,
        "images": images,
        "chunk_images": chunk,
        "seconds": seconds,
        "cpu_s": {"workers": spent},
    }


def test_three_rows_give_three_costs() -> None:
    cost = fit(
        [row(64, 100_000, 15, 2), row(256, 150_000, 15, 2), row(256, 15_000, 15, 4)], "workers"
    )
    assert (cost.chunk, cost.image, cost.second) == pytest.approx((0.002, 10e-6, 0.005), rel=1e-3)


def test_no_cost_is_below_zero() -> None:
    """Its relative errors are 1 - x and 1 - 0.4 x, whose squares are least for x = 1.4 / 1.16."""
    counted = np.array([[1.0, 4.0], [2.0, 2.0]])
    wanted = counted @ [3.0, -0.5]
    assert solve(counted, wanted) == pytest.approx([1.4 / 1.16, 0.0])
