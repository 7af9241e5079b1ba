"""Classifiers that compute nothing: the part of `resnext.classifier.Classifier` that workers use.

A subclass overrides `classify` to decide the outcome of a batch.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

CROP = 4


class Classifier:
    """A picture's class is its first byte. `start` returns a finished batch, as on a CPU."""

    model, weights, weights_sha256 = "resnext101_32x4d", "nvidia", "e" * 64
    licence, engine, device, precision = "none", "eager", "cpu", "fp32"
    overwrites = 0
    device_memory: dict[str, int] = {}  # noqa: RUF012  (never changed)
    spec: Any = SimpleNamespace(
        preprocessing=SimpleNamespace(crop=CROP), categories=tuple(str(n) for n in range(10))
    )

    def __init__(self, *, batch_images: int = 8) -> None:
        self.batch_images = batch_images
        crop = self.spec.preprocessing.crop
        self._room = np.empty((batch_images, crop, crop, 3), np.uint8)

    def room(self) -> np.ndarray:
        return self._room

    def start(self, images: np.ndarray) -> SimpleNamespace:
        """(N, crop, crop, 3) uint8 → a finished batch."""
        found = self.classify(images)
        return SimpleNamespace(is_done=lambda: True, result=lambda: found)

    def classify(self, images: np.ndarray) -> SimpleNamespace:
        return answers(images[:, 0, 0, 0].astype(np.int64)[:, None])


class GatedClassifier(Classifier):
    """Gives each picture two classes once the test opens the gate.

    It waits inside `start`, like a CPU, or with `by_itself` after it, like a device that computes
    in the background.
    """

    def __init__(self, *, by_itself: bool = False) -> None:
        super().__init__(batch_images=4)
        self.by_itself = by_itself
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.seen_done = threading.Event()
        self.batches: list[int] = []
        self.fault: Exception | None = None
        self.not_finite: int | None = None

    def start(self, images: np.ndarray) -> SimpleNamespace:
        self.busy.set()
        self.batches.append(len(images))
        if not self.by_itself:
            return super().start(images)
        kept = images.copy()
        return SimpleNamespace(is_done=self._is_done, result=lambda: self.classify(kept))

    def _is_done(self) -> bool:
        if self.go.is_set():
            self.seen_done.set()
        return self.go.is_set()

    def classify(self, images: np.ndarray) -> SimpleNamespace:
        assert self.go.wait(10)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        first = images[:, 0, 0, 0].astype(np.int64)
        return SimpleNamespace(
            class_ids=np.stack([first, first + 1], axis=1),
            scores=np.tile(np.array([0.75, 0.25], np.float32), (len(images), 1)),
            finite=first != self.not_finite,
        )


def answers(class_ids: np.ndarray) -> SimpleNamespace:
    """(N, 1) int64 → the answers of a batch: one class a picture, with a score of 1."""
    return SimpleNamespace(
        class_ids=class_ids,
        scores=np.ones(class_ids.shape, np.float32),
        finite=np.ones(len(class_ids), bool),
    )
