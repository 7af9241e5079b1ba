"""Between loaders and classifier: fills batches from all chunks, and settles what comes of them.

Pool threads put in loaded images; one thread of its own copies their pixels out, gives the
loaders their slots back, and runs the classifier, which nothing else touches. On a device that
computes by itself the next batch is filled and sent off while the last one is under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from contract.error_codes import Failure
from worker.chunk_run import ChunkRun, ClassifierFault
from worker.loaders import Loaded
from worker.metrics import Metrics
from worker.outcome import Measured, Outcome, Prediction, Provenance

if TYPE_CHECKING:  # torch takes seconds to load, and mistakes are told before that
    from resnext.classifier import Classifier, Pending, Predictions

log = logging.getLogger(__name__)

# Between looks at the device, while it computes and no image comes.
POLL_S: Final = 0.001
# Of the moving average: what was busy so long ago counts half.
RATE_HALF_LIFE_S: Final = 10.0
# A device that is broken fails on every batch; a new process may find it whole again.
FAULTS_TO_STOP: Final = 3


@dataclass(slots=True)  # not frozen, which is slower to make
class _Entry:
    """An image that waits for its batch."""

    run: ChunkRun
    position: int
    loaded: Loaded
    came_at: float


class _Place(NamedTuple):
    """An image in the batch; its pixels are copied."""

    run: ChunkRun
    position: int
    provenance: Provenance
    measured: Measured
    came_at: float


@dataclass
class _Batch:
    """Images that the classifier has."""

    pending: Pending
    places: list[_Place]
    began_at: float
    started_at: float
    done_at: float | None = None
    """When it was first seen to be done."""

    def is_done(self) -> bool:
        if self.done_at is None and self.pending.is_done():
            self.done_at = time.monotonic()
        return self.done_at is not None

    def settle(self, answers: list[Prediction | Failure], device_s: float) -> None:
        images = len(self.places)
        for place, answer in zip(self.places, answers, strict=True):
            measured = (*place.measured, self.started_at - place.came_at, device_s, images)
            place.run.settle(place.position, Outcome(answer, place.provenance, measured))


class Batcher:
    """Owns the classifier and the batch's memory."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        max_wait_s: float,
        when_broken: Callable[[], object] = lambda: None,
        metrics: Metrics | None = None,
    ) -> None:
        """`when_broken` is called once so many batches in a row have failed that all will."""
        crop = classifier.spec.preprocessing.crop
        self._classifier = classifier
        self._max_wait_s = max_wait_s
        self._when_broken = when_broken
        self._faults = 0  # since the last batch that went well
        self._pixels = np.empty((classifier.batch_images, crop, crop, 3), np.uint8)
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._rate = _Rate()
        self._metrics = metrics or Metrics()
        self._device_free_at = 0.0
        self._thread = threading.Thread(target=self._run, name="batcher")

    @property
    def images_per_s(self) -> float:
        """Measured while there was something to do; 0 before the first batch."""
        return self._rate.images_per_s

    def start(self) -> None:
        self._thread.start()

    def put(self, run: ChunkRun, position: int, loaded: Loaded) -> None:
        """Never blocks: the loaders' slots bound what can wait here."""
        self._entries.put(_Entry(run, position, loaded, time.monotonic()))

    def close(self) -> None:
        """Returns once everything that was put in before is settled."""
        self._entries.put(None)
        self._thread.join()

    def _run(self) -> None:
        under_way: _Batch | None = None
        closing = False
        while under_way is not None or not closing:
            began_at, places = 0.0, list[_Place]()
            if not closing:
                began_at, places, closing = self._fill(under_way)
            started = self._start(places, began_at) if places else None
            if under_way is not None:
                self._finish(under_way)
            if started is not None and started.is_done():  # as always on a CPU
                self._finish(started)
                started = None
            under_way = started

    def _fill(self, under_way: _Batch | None) -> tuple[float, list[_Place], bool]:
        """Fills a batch from its first image on: since when there was work, the batch, and
        whether it is the last one. No images: the batch that is under way is done before.
        """
        try:
            first = self._first(under_way)
        except Empty:
            return 0.0, [], False
        if first is None:
            return 0.0, [], True
        places = [self._copy(0, first)]
        leaves_at = first.came_at + self._max_wait_s
        while len(places) < len(self._pixels):
            try:
                left_s = max(0.0, leaves_at - time.monotonic())
                if under_way is None:
                    entry = self._entries.get(timeout=left_s)
                else:
                    entry = self._get_watching(under_way, left_s)
            except Empty:
                break
            if entry is None:
                return first.came_at, places, True
            places.append(self._copy(len(places), entry))
        return first.came_at, places, False

    def _first(self, under_way: _Batch | None) -> _Entry | None:
        """
        Raises:
            Empty: the batch that is under way is done, and nothing has come.
        """
        while under_way is not None:
            try:
                return self._entries.get(timeout=POLL_S)
            except Empty:
                if under_way.is_done():
                    raise
        return self._entries.get()

    def _get_watching(self, under_way: _Batch, within_s: float) -> _Entry | None:
        """Notes when the batch that is under way is done: while images are waited for, the
        device must not pass for busy.

        Raises:
            Empty: nothing has come in time.
        """
        ends_at = time.monotonic() + within_s
        while within_s > POLL_S and under_way.done_at is None:
            try:
                return self._entries.get(timeout=POLL_S)
            except Empty:
                under_way.is_done()
            within_s = max(0.0, ends_at - time.monotonic())
        return self._entries.get(timeout=within_s)

    def _copy(self, index: int, entry: _Entry) -> _Place:
        self._pixels[index] = entry.loaded.pixels
        entry.loaded.release()
        loaded = entry.loaded
        return _Place(entry.run, entry.position, loaded.provenance, loaded.measured, entry.came_at)

    def _start(self, places: list[_Place], began_at: float) -> _Batch | None:
        """None if it has failed; a fault costs the runs of this batch, which come again, and
        settles no image.
        """
        started_at = time.monotonic()
        try:
            pending = self._classifier.start(self._pixels[: len(places)])
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", len(places))
            self._fail(places, error)
            return None
        return _Batch(pending, places, began_at, started_at)

    def _finish(self, batch: _Batch) -> None:
        try:
            predictions = batch.pending.result()
            done_at = batch.done_at or time.monotonic()
            answers = _answers(predictions)
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", len(batch.places))
            self._fail(batch.places, error)
            return
        self._faults = 0
        # What is under way together is computed one after the other.
        device_s = done_at - max(batch.started_at, self._device_free_at)
        self._device_free_at = done_at
        self._metrics.note_batch(len(batch.places), device_s)
        batch.settle(answers, device_s)
        self._rate.note(len(batch.places), batch.began_at)

    def _fail(self, places: list[_Place], error: Exception) -> None:
        for run in {place.run for place in places}:
            run.fail(ClassifierFault(f"the classifier failed with {type(error).__name__}"))
        self._faults += 1
        if self._faults == FAULTS_TO_STOP:
            log.error(
                "The classifier has failed on %d batches in a row, at last with: %s. "
                "This worker hands its chunks back and ends; start it again once its device works.",
                self._faults,
                error,
            )
            self._when_broken()


def _answers(predictions: Predictions) -> list[Prediction | Failure]:
    return [
        Prediction(tuple(class_ids), tuple(scores)) if finite else Failure("not_finite")
        for class_ids, scores, finite in zip(
            predictions.class_ids.tolist(),
            predictions.scores.tolist(),
            predictions.finite.tolist(),
            strict=True,
        )
    ]


class _Rate:
    """Images per busy second: while images were there, whether they filled a batch or ran."""

    def __init__(self) -> None:
        self._images = 0.0
        self._busy_s = 0.0
        self._noted_at = 0.0

    @property
    def images_per_s(self) -> float:
        busy_s = self._busy_s
        return self._images / busy_s if busy_s else 0.0

    def note(self, images: int, began_at: float) -> None:
        """A batch whose first image came at `began_at` is done now."""
        now = time.monotonic()
        busy_s = now - max(began_at, self._noted_at)
        kept = 0.5 ** (busy_s / RATE_HALF_LIFE_S)
        self._images = self._images * kept + images
        self._busy_s = self._busy_s * kept + busy_s
        self._noted_at = now
