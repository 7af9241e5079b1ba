"""The simulation's constants, from what benchmarks/system/fleet.py measured.

Only rows whose `for` is `calibration` are used: the others are there to be compared. Rows with two
and four workers give what each part spends for a chunk, an image and a second, by least squares,
nothing below zero. The row with one worker gives how much of a core a worker's process uses at
most, and those with 16 how much dearer a chunk and an image are when many share the cores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.rig.fleet import PARTS
from benchmarks.simulation.model import MEASURED_WORKERS, Cost, Costs, Crowding

FILE: Final = Path(__file__).with_name("calibration.json")
WHAT: Final = ("chunk", "image")
ROUNDS: Final = 20_000
LOADING_S: Final = 0.00282
"""CPU of a loader for a photograph: the row `loading` of docs/benchmarks.md."""
IMAGE_BYTES: Final = 108_000
"""Of the same photographs, on average."""


def read(path: Path = FILE) -> dict[str, Any]:
    """What was measured, with its date and machine."""
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured


def rows_for(measured: dict[str, Any], purpose: str) -> list[dict[str, Any]]:
    """`calibration` or `comparison`."""
    return [row for row in measured["rows"] if row["for"] == purpose]


def costs_of(measured: dict[str, Any]) -> Costs:
    """The constants of the simulation, with loaders and pictures of docs/benchmarks.md."""
    by_workers = {
        number: [row for row in rows_for(measured, "calibration") if row["workers"] == number]
        for number in (1, 2, 4, 16)
    }
    found = {part: fit(by_workers[2] + by_workers[4], part) for part in PARTS}
    (alone,) = by_workers[1]
    return Costs(
        **found,
        flush_s=measured["flush_s"],
        worker_share=min(1.0, alone["cpu_s"]["workers"] / alone["seconds"]),
        crowding=crowding(found, by_workers[16]),
        image_loading_s=LOADING_S,
        image_bytes=IMAGE_BYTES,
    )


def crowding(costs: dict[str, Cost], rows: Sequence[dict[str, Any]]) -> Crowding:
    """From runs with many workers: by how much a chunk and an image are dearer there."""
    chunk, image = (sum(getattr(cost, what) for cost in costs.values()) for what in WHAT)
    wanted, counted = [], []
    for row in rows:
        counts = {part: counts_of(row, part) for part in costs}
        idle_s = sum(costs[part].second * counts[part][2] for part in costs)
        wanted.append(sum(row["cpu_s"].values()) - idle_s)
        counted.append([chunk * counts["workers"][0], image * counts["workers"][1]])
    doublings = log2(rows[0]["workers"] / MEASURED_WORKERS)
    dearer = solve(np.array(counted), np.array(wanted))
    return Crowding(**{what: (d - 1) / doublings for what, d in zip(WHAT, dearer, strict=True)})


def fit(rows: Sequence[dict[str, Any]], part: str) -> Cost:
    """The relative errors of all rows count the same."""
    wanted = np.array([row["cpu_s"][part] for row in rows])
    counted = np.array([counts_of(row, part) for row in rows])
    return Cost(**dict(zip(("chunk", "image", "second"), solve(counted, wanted), strict=True)))


def counts_of(row: dict[str, Any], part: str) -> tuple[float, float, float]:
    """Chunks, images, and seconds of all workers (of the dispatcher: of itself)."""
    alive = 1 if part in {"dispatcher", "dispatching"} else row["workers"]
    return row["images"] / row["chunk_images"], row["images"], row["seconds"] * alive


def solve(counted: np.ndarray, wanted: np.ndarray) -> list[float]:
    """Least squares with no value below zero, coordinate by coordinate.

    Args:
        counted: (rows, values).
        wanted: (rows,).
    """
    scaled = counted / wanted[:, None]
    widths = np.linalg.norm(scaled, axis=0)
    scaled = scaled / widths
    found = np.zeros(scaled.shape[1])
    for _ in range(ROUNDS):
        for n in range(len(found)):
            missing = 1 - scaled @ found
            found[n] = max(0.0, found[n] + scaled[:, n] @ missing)
    return [float(value) for value in found / widths]
