"""Between loaders and classifier: fills batches from all chunks, and settles what comes of them.

The pool's reader puts in loaded images, as many at a time as have come; one thread of its own
gathers their pixels in the classifier's memory, gives the loaders their slots back, and runs the
classifier, which nothing else touches. On a device that computes by itself the next batch is
filled and sent off while the last one is in flight.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from contract.failure import Failure
from resnext.picture.resample import Pixels
from resnext.predictions import Predictions, best_of_each
from worker.chunk.outcome import Outcome, Prediction
from worker.chunk.run import ChunkRun, ClassifierFault
from worker.metrics.stages import Metrics
from worker.pool.pool import Loaded, release

if TYPE_CHECKING:  # torch takes seconds to load, and mistakes are told before that
    from resnext.classifier import Classifier, Pending

log = logging.getLogger(__name__)

# Between looks at the device, while it computes and no image comes.
POLL_S: Final = 0.001
# Of the moving average: what was busy so long ago counts half.
RATE_HALF_LIFE_S: Final = 10.0
# A device that is broken fails on every batch; a new process may find it whole again.
FAULTS_TO_STOP: Final = 3


class _Arrived(NamedTuple):
    """Images of one run that have come together and wait for their batch."""

    run: ChunkRun
    images: list[tuple[int, Loaded]]
    """By position."""
    came_at: float

    def split(self, number: int) -> tuple[_Arrived, _Arrived]:
        """The first ones, and the rest."""
        return self._replace(images=self.images[:number]), self._replace(
            images=self.images[number:]
        )


@dataclass
class _Batch:
    """What a batch is made of; with the classifier once it has `pending`."""

    parts: list[_Arrived] = field(default_factory=list)
    images: int = 0
    pending: Pending | None = None
    started_at: float = 0.0
    done_at: float | None = None
    """When it was first seen to be done."""

    def add(self, part: _Arrived) -> None:
        self.parts.append(part)
        self.images += len(part.images)

    @property
    def began_at(self) -> float:
        return self.parts[0].came_at

    @property
    def runs(self) -> set[ChunkRun]:
        return {part.run for part in self.parts}

    def is_done(self) -> bool:
        if self.done_at is None and self.pending is not None and self.pending.is_done():
            self.done_at = time.monotonic()
        return self.done_at is not None

    def result(self) -> Predictions:
        """Waits for it."""
        assert self.pending is not None  # noqa: S101  (started before)
        return self.pending.result()

    def settle(self, answers: list[Prediction | Failure], device_s: float) -> None:
        """Tells each run once, of all its images."""
        if len(answers) != self.images:
            raise ValueError(f"{len(answers)} answers for {self.images} images")
        outcomes: dict[ChunkRun, dict[int, Outcome]] = {run: {} for run in self.runs}
        left = iter(answers)
        for part in self.parts:
            last_stages = (self.started_at - part.came_at, device_s, self.images)
            of_run = outcomes[part.run]
            for (position, loaded), answer in zip(part.images, left, strict=False):
                measured = loaded.measured + last_stages
                of_run[position] = Outcome(answer, loaded.provenance, measured)
        for run, settled in outcomes.items():
            run.settle(settled)


class Batcher:
    """Owns the classifier."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        max_wait_s: float,
        when_broken: Callable[[], object] = lambda: None,
        metrics: Metrics | None = None,
    ) -> None:
        """`when_broken` is called once so many batches in a row have failed that all will."""
        self._classifier = classifier
        self._max_wait_s = max_wait_s
        self._when_broken = when_broken
        self._faults = 0  # since the last batch that went well
        self._arrived: SimpleQueue[_Arrived | None] = SimpleQueue()
        self._left: _Arrived | None = None  # by the last batch, which was full
        self._rate = _Rate()
        self._metrics = metrics or Metrics()
        self._device_free_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="batcher")

    @property
    def images_per_s(self) -> float:
        """Measured while there was something to do; 0 before the first batch."""
        return self._rate.images_per_s

    def start(self) -> None:
        self._thread.start()

    def put(self, run: ChunkRun, images: list[tuple[int, Loaded]]) -> None:
        """By position. Never blocks: the loaders' slots bound what can wait here."""
        self._arrived.put(_Arrived(run, images, time.monotonic()))

    def close(self) -> None:
        """Returns once everything that was put in before is settled."""
        self._arrived.put(None)
        self._thread.join()

    def _serve(self) -> None:
        """Without its thread a worker would take chunks and never give one back."""
        try:
            self._run()
        except Exception:
            log.exception("No batch is filled any more. This worker ends; start it again.")
            self._when_broken()

    def _run(self) -> None:
        computing: _Batch | None = None
        closing = False
        while computing is not None or not closing:
            batch, room = _Batch(), self._classifier.room()
            if not closing:
                closing = self._fill(batch, room, computing)
            started = batch.images > 0 and self._start(batch, room)
            if computing is not None:
                self._finish(computing)
            if started and batch.is_done():  # as always on a CPU
                self._finish(batch)
                started = False
            computing = batch if started else None

    def _fill(self, batch: _Batch, room: Pixels, in_flight: _Batch | None) -> bool:
        """Fills a batch from its first image on; returns whether it is the last one. No images:
        the batch that is in flight is done before.
        """
        try:
            arrived = self._first(in_flight)
            while arrived is not None:
                self._add(batch, room, arrived)
                if batch.images == len(room):
                    return False
                left_s = max(0.0, batch.began_at + self._max_wait_s - time.monotonic())
                arrived = self._next(in_flight, left_s)
        except Empty:
            return False
        return True

    def _first(self, in_flight: _Batch | None) -> _Arrived | None:
        """
        Raises:
            Empty: the batch that is in flight is done, and no image has come.
        """
        if self._left is not None:
            left, self._left = self._left, None
            return left
        while in_flight is not None:
            try:
                return self._arrived.get(timeout=POLL_S)
            except Empty:
                if in_flight.is_done():
                    raise
        return self._arrived.get()

    def _next(self, in_flight: _Batch | None, within_s: float) -> _Arrived | None:
        """Notes when the batch that is in flight is done: while images are waited for, the
        device must not pass for busy.

        Raises:
            Empty: nothing has come in time.
        """
        ends_at = time.monotonic() + within_s
        while in_flight is not None and within_s > POLL_S and in_flight.done_at is None:
            try:
                return self._arrived.get(timeout=POLL_S)
            except Empty:
                in_flight.is_done()
            within_s = max(0.0, ends_at - time.monotonic())
        return self._arrived.get(timeout=within_s)

    def _add(self, batch: _Batch, room: Pixels, first: _Arrived) -> None:
        """It, and all that has come besides: their slots are given back in one call."""
        parts = self._at_hand(first, len(room) - batch.images)
        loads = [loaded for part in parts for _, loaded in part.images]
        try:
            _gather(loads, room[batch.images :])
        except Exception as fault:
            log.exception("Images cannot be put into a batch; one of them is at fault.")
            parts = [
                sound
                for part in parts
                if (sound := _settle_unsound(part, room[batch.images], fault)).images
            ]
            _gather([load for part in parts for _, load in part.images], room[batch.images :])
        finally:
            release(loads)
        for part in parts:
            batch.add(part)

    def _at_hand(self, first: _Arrived, most: int) -> list[_Arrived]:
        """As many images as fit; the rest of the last part is left for the next batch."""
        parts, part = list[_Arrived](), first
        while len(part.images) < most:
            parts.append(part)
            most -= len(part.images)
            try:
                further = self._arrived.get_nowait()
            except Empty:
                return parts
            if further is None:  # to be found when nothing else is there
                self._arrived.put(None)
                return parts
            part = further
        fits, rest = part.split(most)
        self._left = rest if rest.images else None
        return [*parts, fits]

    def _start(self, batch: _Batch, room: Pixels) -> bool:
        """False if it has failed; a fault costs the runs of this batch, which come again, and
        settles no image.
        """
        batch.started_at = time.monotonic()
        try:
            batch.pending = self._classifier.start(room[: batch.images])
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", batch.images)
            self._fail(batch, error)
            return False
        return True

    def _finish(self, batch: _Batch) -> None:
        try:
            predictions = batch.result()
            done_at = batch.done_at or time.monotonic()
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", batch.images)
            self._fail(batch, error)
            return
        self._faults = 0
        # Batches that the device has together are computed in sequence.
        device_s = done_at - max(batch.started_at, self._device_free_at)
        self._device_free_at = done_at
        self._metrics.note_batch(batch.images, device_s)
        self._rate.note(batch.images, batch.began_at)
        try:
            batch.settle(_answers(predictions), device_s)
        except Exception as fault:
            log.exception("The answers of a batch of %d images cannot be read.", batch.images)
            for run in batch.runs:
                run.fail(fault)

    def _fail(self, batch: _Batch, error: Exception) -> None:
        for run in batch.runs:
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


def _settle_unsound(part: _Arrived, place: Pixels, fault: Exception) -> _Arrived:
    """Images whose pixels cannot be copied fail; returns the others."""
    sound = []
    unsound = dict[int, Outcome]()
    for position, loaded in part.images:
        try:
            place[...] = loaded.pixels
        except Exception:  # noqa: BLE001  (whatever it is, it costs this image alone)
            failure = Failure("internal", type(fault).__name__)
            unsound[position] = Outcome(failure, loaded.provenance, loaded.measured)
        else:
            sound.append((position, loaded))
    part.run.settle(unsound)
    return part._replace(images=sound)


def _gather(loads: list[Loaded], room: Pixels) -> None:
    """The one copy of an image's pixels on their way to the device's memory."""
    for place, loaded in enumerate(loads):
        room[place] = loaded.pixels


def _answers(predictions: Predictions) -> list[Prediction | Failure]:
    return [
        Failure("not_finite")
        if best is None
        else Prediction(tuple(best.class_ids), tuple(best.scores))
        for best in best_of_each(predictions)
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
