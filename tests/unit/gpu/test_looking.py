"""The batcher never shows a batch with another batch's pictures, whatever the GPU's memory does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.doubles.cuda import CROP, NO_MEMORY, Cuda, make_classifier
from worker.batch.batch import Arrived
from worker.batch.batcher import Batcher
from worker.chunk.outcome import Outcome, Provenance
from worker.pool.pool import Loaded

IMAGES = 200


@pytest.fixture
def cuda(monkeypatch) -> Iterator[Cuda]:
    cuda = Cuda()
    cuda.install(monkeypatch.setattr)
    yield cuda
    cuda.goes_on.set()


class Run:
    """Collects outcomes."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._settled = 0

    def settle(self, outcomes: dict[int, Outcome]) -> None:
        self._settled += len(outcomes)
        if self._settled == IMAGES:
            self.done.set()

    def fail(self, _: Exception) -> None:
        self.done.set()


class Home:
    def take_back(self, _: Sequence[Loaded]) -> None:
        pass


@pytest.mark.parametrize("graphs", [2, 1])
def test_each_picture_is_shown_with_its_own_answer(cuda: Cuda, graphs: int) -> None:
    """Memory may run out at the second batch, which then overwrites the first one's pictures."""
    shown = list[tuple[int, int]]()

    def compute(images: int) -> None:
        if len(cuda.captures) >= graphs and images > 2:
            raise torch.OutOfMemoryError(NO_MEMORY)

    def look(_: Sequence[Arrived], pixels: np.ndarray, predictions: Any) -> None:
        firsts = pixels[:, 0, 0, 0].tolist()
        shown.extend(zip(firsts, predictions.class_ids[:, 0].tolist(), strict=True))

    cuda.on_compute = compute
    batcher, run = Batcher(make_classifier(cuda), max_wait_s=0.0, look=look), Run()
    loads = [
        Loaded(np.full((CROP, CROP, 3), n, np.uint8), Provenance(), Home(), slot=n)
        for n in range(IMAGES)
    ]
    batcher.start()
    batcher.put(run, list(enumerate(loads)))  # type: ignore[arg-type]
    assert run.done.wait(60)
    batcher.close()
    assert all(picture == answer for picture, answer in shown)
    assert len(shown) > IMAGES // 2
