"""`resnextq worker` with a quick classifier whose answers can be checked.

Everything else is the real worker: supervisor, Celery, loaders, batches, store. `stack` runs it as
a process.

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
from contract.settings import BATCH_IMAGES, load_settings
from resnext.picture.preprocess import Preprocessing
from tests.chaos.pictures import DEADLY, SIDE
from tests.doubles.classifier import Classifier, answers

POLL_S: Final = 0.02
PREPROCESSING: Final = Preprocessing(
    resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
)
SPEC: Final = SimpleNamespace(preprocessing=PREPROCESSING, categories=("dark", "bright"))


class ColourClassifier(Classifier):
    weights_sha256, spec = "c" * 64, SPEC

    def __init__(self, *, batch_images: int, batch_s: float, hold: Path) -> None:
        super().__init__(batch_images=batch_images)
        self._batch_s = batch_s
        self._hold = hold

    def classify(self, images: np.ndarray) -> SimpleNamespace:
        """(N, crop, crop, 3) uint8 → the class that `pictures` painted."""
        time.sleep(self._batch_s)
        while self._hold.exists():
            time.sleep(POLL_S)
        if DEADLY in _read(images):  # like a crash in a driver: at once, in this thread
            signal.raise_signal(signal.SIGSEGV)
        return answers(_read(images))


def _read(images: np.ndarray) -> np.ndarray:
    """(N, crop, crop, 3) uint8 → (N, 1) int64."""
    colour = images[:, SIDE // 2, SIDE // 2].astype(np.int64)
    return colour @ np.array([[2**16], [2**8], [1]])


def main() -> None:
    settings = load_settings()
    classifier = ColourClassifier(
        batch_images=settings.batch_images or BATCH_IMAGES,
        batch_s=float(os.environ["CHAOS_BATCH_S"]),
        hold=Path(os.environ["CHAOS_HOLD"]),
    )
    worker.main.find_model = lambda _: SPEC
    worker.main.load_classifier = lambda _: classifier
    worker.process.supervisor.run_watched(settings)


if __name__ == "__main__":
    main()
