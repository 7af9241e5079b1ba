"""`resnextq worker` with a classifier that is quick, and whose answers can be checked.

Everything else is the worker's own: supervisor, Celery, loaders, batches, store. `stack` runs it
as a process.

    CHAOS_BATCH_S   seconds that a batch takes
    CHAOS_HOLD      a file: while it exists, no batch ends
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import numpy as np

import worker.main
import worker.process.supervisor
from contract.settings import load_settings
from resnext.picture.preprocess import Preprocessing
from tests.chaos.pictures import DEADLY, SIDE

POLL_S: Final = 0.02
PREPROCESSING: Final = Preprocessing(
    resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
)
SPEC: Final = SimpleNamespace(preprocessing=PREPROCESSING, categories=("dark", "bright"))


class Classifier:
    """The part of `resnext.classifier.Classifier` that a worker uses."""

    model, weights, weights_sha256 = "resnext101_32x4d", "nvidia", "c" * 64
    licence, engine, device, precision = "none", "eager", "cpu", "fp32"
    spec = SPEC

    def __init__(self, *, batch_images: int, batch_s: float, hold: Path) -> None:
        self.batch_images = batch_images
        self._batch_s = batch_s
        self._hold = hold
        self._room = np.empty((batch_images, SIDE, SIDE, 3), np.uint8)

    def room(self) -> np.ndarray:
        return self._room

    def start(self, images: np.ndarray) -> SimpleNamespace:
        """(N, crop, crop, 3) uint8 → the class that `pictures` has painted."""
        time.sleep(self._batch_s)
        while self._hold.exists():
            time.sleep(POLL_S)
        if DEADLY in _read(images):  # as a driver may, and in this thread: at once
            signal.raise_signal(signal.SIGSEGV)
        found = SimpleNamespace(
            class_ids=_read(images),
            scores=np.ones((len(images), 1), np.float32),
            finite=np.ones(len(images), bool),
        )
        return SimpleNamespace(is_done=lambda: True, result=lambda: found)


def _read(images: np.ndarray) -> np.ndarray:
    """(N, crop, crop, 3) uint8 → (N, 1) int64."""
    colour = images[:, SIDE // 2, SIDE // 2].astype(np.int64)
    return colour @ np.array([[2**16], [2**8], [1]])


def main() -> None:
    settings = load_settings()
    classifier = Classifier(
        batch_images=settings.batch_images,
        batch_s=float(os.environ["CHAOS_BATCH_S"]),
        hold=Path(os.environ["CHAOS_HOLD"]),
    )
    worker.main.find_model = lambda _: SPEC
    worker.main.load_classifier = lambda _: classifier
    worker.process.supervisor.run_watched(settings)


if __name__ == "__main__":
    main()
