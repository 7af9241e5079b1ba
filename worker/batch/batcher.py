"""Between loaders and classifier: fills batches with images of all chunks, and reports the answers.

The pool's reader puts in loaded images, many at once. The batcher's thread copies their pixels into
the classifier's memory, gives the loaders their slots back, and runs the classifier, which nothing
else uses. On a GPU it fills and starts the next batch while the last one is computed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from contract.failure import Failure
from resnext.errors import DeviceBroken
from resnext.picture.resample import Pixels
from resnext.predictions import Predictions
from resnext.run.watchdog import HUNG_AFTER_S, Watchdog
from worker.batch.batch import Arrived, Batch
from worker.chunk.outcome import Outcome, Prediction
from worker.chunk.run import ChunkRun, ClassifierFault
from worker.metrics.stages import Metrics
from worker.pool.pool import Loaded, release

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Classifier

log = logging.getLogger(__name__)

Look = Callable[[Sequence[Arrived], Pixels, Predictions], object]

# How often to check whether the device is done, while no image arrives.
POLL_S: Final = 0.001
# How often to check whether the device has broken, while `close` waits for the last batches.
BROKEN_POLL_S: Final = 0.1
# The half-life of the moving average, in seconds of busy time.
RATE_HALF_LIFE_S: Final = 10.0
# A classifier that fails this often in a row will fail on every batch. A new process may help.
FAULTS_TO_STOP: Final = 3
_ENDS: Final = "This worker hands its chunks back and ends. Start it again once its device works."


class Batcher:
    """Owns the classifier."""

    def __init__(  # noqa: PLR0913  (one value each for what a test changes)
        self,
        classifier: Classifier,
        *,
        max_wait_s: float,
        when_broken: Callable[[], object] = lambda: None,
        look: Look = lambda *_: None,
        metrics: Metrics | None = None,
        hung_after_s: float = HUNG_AFTER_S,
    ) -> None:
        """
        Args:
            classifier: nothing else uses it.
            max_wait_s: how long the first image of a batch waits for the others.
            when_broken: called once, as soon as it is certain that no more batches will be
                classified. `broken` says why.
            look: called with each batch before its runs get their outcomes: with its parts, its
                pixels (which it must not keep) and its predictions.
            metrics: the worker's metrics.
            hung_after_s: how long a device may take for one batch.
        """
        self.broken: str | None = None
        """The cause. It is set once, before `when_broken` is called."""
        self._classifier = classifier
        self._max_wait_s = max_wait_s
        self._when_broken = when_broken
        self._look = look
        self._breaking = threading.Lock()
        self._in_flight: list[Batch] = []
        self._faults = 0  # since the last batch that succeeded
        self._arrived: SimpleQueue[Arrived | None] = SimpleQueue()
        self._left: Arrived | None = None  # images that did not fit into the last batch
        self._rate = _Rate()
        self._metrics = metrics or Metrics()
        self._device_free_at = 0.0
        # A daemon thread, because a hanging device must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._watchdog: Watchdog | None = None
        if classifier.device != "cpu":  # on a CPU a batch may take any time
            self._watchdog = Watchdog(self._busy_s, self._hang, hung_after_s=hung_after_s)

    @property
    def images_per_s(self) -> float:
        """The rate while the batcher was busy; 0 before the first batch."""
        return self._rate.images_per_s

    def start(self) -> None:
        self._thread.start()
        if self._watchdog is not None:
            self._watchdog.start()

    def put(self, run: ChunkRun, images: list[tuple[int, Loaded]]) -> None:
        """Takes images with their positions. Never blocks: the loaders' slots bound the queue."""
        self._arrived.put(Arrived(run, images, time.monotonic()))
        if self.broken is not None:
            self._refuse()

    def close(self) -> None:
        """Returns when all images that were put in are settled or handed back."""
        self._arrived.put(None)
        while self._thread.is_alive() and self.broken is None:
            self._thread.join(BROKEN_POLL_S)
        if self._watchdog is not None:
            self._watchdog.close()

    def _serve(self) -> None:
        """Runs the thread. After an error it ends the worker, which could never finish a chunk."""
        try:
            self._run()
        except Exception as error:
            log.exception("No more batches can be filled. This worker ends; start it again.")
            self._break(f"{type(error).__name__}: {error}")
        if self.broken is not None:  # the watchdog may have set it while a batch was being filled
            self._refuse()

    def _run(self) -> None:
        computing: Batch | None = None
        closing = False
        while self.broken is None and (computing is not None or not closing):
            batch, room = Batch(), self._classifier.room()
            if not closing:
                closing = self._fill(batch, room, computing)
            started = batch.images > 0 and self._start(batch, room)
            if computing is not None:
                self._finish(computing)
            if started and batch.is_done():  # always on a CPU
                self._finish(batch)
                started = False
            computing = batch if started else None

    def _fill(self, batch: Batch, room: Pixels, in_flight: Batch | None) -> bool:
        """Fills a batch, starting with the first image that arrives. Returns whether it is the
        last. The batch stays empty if the batch in flight is done first.
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

    def _first(self, in_flight: Batch | None) -> Arrived | None:
        """Waits for the first images of a batch.

        Raises:
            Empty: the batch in flight is done, and no image has arrived.
        """
        if self._left is not None:
            left, self._left = self._left, None
            return left
        while in_flight is not None:
            try:
                return self._arrived.get(timeout=POLL_S)
            except Empty:
                if in_flight.is_done() or self.broken is not None:
                    raise
        return self._arrived.get()

    def _next(self, in_flight: Batch | None, within_s: float) -> Arrived | None:
        """Waits for further images. Also notes when the batch in flight is done, so that the device
        does not count as busy during this wait.

        Raises:
            Empty: no image has arrived in time.
        """
        ends_at = time.monotonic() + within_s
        while in_flight is not None and within_s > POLL_S and in_flight.done_at is None:
            try:
                return self._arrived.get(timeout=POLL_S)
            except Empty:
                in_flight.is_done()
                if self.broken is not None:
                    raise
            within_s = max(0.0, ends_at - time.monotonic())
        return self._arrived.get(timeout=within_s)

    def _add(self, batch: Batch, room: Pixels, first: Arrived) -> None:
        """Adds `first` and all images that have arrived since. Releases their slots in one call."""
        parts = self._at_hand(first, len(room) - batch.images)
        loads = [loaded for part in parts for _, loaded in part.images]
        try:
            _gather(loads, room[batch.images :])
        except Exception as fault:
            log.exception("Images could not be copied into a batch; at least one is damaged.")
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

    def _at_hand(self, first: Arrived, most: int) -> list[Arrived]:
        """Returns as many images as fit. Leaves the rest of the last part for the next batch."""
        parts, part = list[Arrived](), first
        while len(part.images) < most:
            parts.append(part)
            most -= len(part.images)
            try:
                further = self._arrived.get_nowait()
            except Empty:
                return parts
            if further is None:  # the mark of `close`: put it back, to be taken last
                self._arrived.put(None)
                return parts
            part = further
        fits, rest = part.split(most)
        self._left = rest if rest.images else None
        return [*parts, fits]

    def _start(self, batch: Batch, room: Pixels) -> bool:
        """Starts a batch. Returns False if it failed: then its images run again, without an attempt
        being counted.
        """
        if self.broken is not None:
            _hand_back(batch, self.broken)
            return False
        batch.started_at = time.monotonic()
        batch.pixels = room[: batch.images]
        batch.overwrites = self._classifier.overwrites
        self._in_flight.append(batch)
        try:
            batch.pending = self._classifier.start(batch.pixels)
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", batch.images)
            self._fail(batch, error)
            return False
        return True

    def _finish(self, batch: Batch) -> None:
        try:
            predictions = batch.result()
            done_at = batch.done_at or time.monotonic()
        except Exception as error:
            log.exception("The classifier failed on a batch of %d images.", batch.images)
            self._fail(batch, error)
            return
        self._in_flight.remove(batch)
        self._faults = 0
        # If the device has several batches, it computes them in sequence.
        device_s = done_at - max(batch.started_at, self._device_free_at)
        self._device_free_at = done_at
        self._metrics.note_batch(batch.images, device_s)
        self._rate.note(batch.images, batch.began_at)
        self._show(batch, predictions)
        try:
            batch.settle(_answers(predictions), device_s)
        except Exception as fault:
            log.exception("The answers of a batch of %d images could not be read.", batch.images)
            for run in batch.runs:
                run.fail(fault)

    def _show(self, batch: Batch, predictions: Predictions) -> None:
        if batch.pixels is None or batch.overwrites != self._classifier.overwrites:
            return  # another batch may be in this memory now
        try:
            self._look(batch.parts, batch.pixels, predictions)
        except Exception:
            log.exception("No thumbnails could be chosen from a batch of %d images.", batch.images)

    def _fail(self, batch: Batch, error: Exception) -> None:
        self._in_flight.remove(batch)
        _hand_back(batch, type(error).__name__)
        self._faults += 1
        if self.broken is not None:
            return
        if isinstance(error, DeviceBroken):
            log.error("The device is broken: %s. %s", error, _ENDS)
            self._break(str(error))
        elif self._faults == FAULTS_TO_STOP:
            log.error(
                "The classifier has failed on %d batches in a row. The last error: %s. %s",
                self._faults,
                error,
                _ENDS,
            )
            self._break(str(error))

    def _busy_s(self) -> float:
        """How long the device has been computing one batch. It computes them in sequence."""
        now = time.monotonic()
        return max(
            (
                now - max(batch.started_at, self._device_free_at)
                for batch in tuple(self._in_flight)
                if batch.done_at is None
            ),
            default=0.0,
        )

    def _hang(self, busy_s: float) -> None:
        """Runs in the watchdog's thread, because the batcher's thread is stuck."""
        log.error("The device hangs: it has been computing one batch for %.0f s. %s", busy_s, _ENDS)
        self._break(f"the device hangs: it has been computing one batch for {busy_s:.0f} s")

    def _break(self, cause: str) -> None:
        """Stops classifying, and hands all images back. May be called from any thread."""
        with self._breaking:
            if self.broken is not None:
                return
            self.broken = cause
        self._when_broken()
        for batch in tuple(self._in_flight):
            _hand_back(batch, cause)
        self._refuse()

    def _refuse(self) -> None:
        """Hands back the images that wait for a batch. Several threads may do this at once."""
        left, self._left = self._left, None
        parts = [] if left is None else [left]
        with suppress(Empty):
            while True:
                if (part := self._arrived.get_nowait()) is not None:
                    parts.append(part)
        for part in parts:
            release([loaded for _, loaded in part.images])
            part.run.fail(_fault(self.broken or ""))


def _hand_back(batch: Batch, cause: str) -> None:
    """Hands back the images of a batch. None of them is to blame."""
    for run in batch.runs:
        run.fail(_fault(cause))


def _fault(cause: str) -> ClassifierFault:
    return ClassifierFault(f"the classifier failed: {cause}")


def _settle_unsound(part: Arrived, place: Pixels, fault: Exception) -> Arrived:
    """Fails the images whose pixels cannot be copied, and returns the others."""
    sound = []
    unsound = dict[int, Outcome]()
    for position, loaded in part.images:
        try:
            place[...] = loaded.pixels
        except Exception:  # noqa: BLE001  (any error costs only this image)
            failure = Failure("internal", type(fault).__name__)
            unsound[position] = Outcome(failure, loaded.provenance, loaded.measured)
        else:
            sound.append((position, loaded))
    part.run.settle(unsound)
    return part._replace(images=sound)


def _gather(loads: list[Loaded], room: Pixels) -> None:
    """Copies pixels into the batch. It is the only copy before the device's memory."""
    for place, loaded in enumerate(loads):
        room[place] = loaded.pixels


def _answers(predictions: Predictions) -> list[Prediction | Failure]:
    columns = (
        map(tuple, predictions.class_ids.tolist()),
        map(tuple, predictions.scores.tolist()),
        predictions.finite.tolist(),
    )
    return [
        Prediction(class_ids, scores) if finite else Failure("not_finite")
        for class_ids, scores, finite in zip(*columns, strict=True)
    ]


class _Rate:
    """Images per busy second. It is busy while a batch is being filled or computed."""

    def __init__(self) -> None:
        self._images = 0.0
        self._busy_s = 0.0
        self._noted_at = 0.0

    @property
    def images_per_s(self) -> float:
        busy_s = self._busy_s
        return self._images / busy_s if busy_s else 0.0

    def note(self, images: int, began_at: float) -> None:
        """Counts a batch that is done now and whose first image arrived at `began_at`."""
        now = time.monotonic()
        busy_s = now - max(began_at, self._noted_at)
        kept = 0.5 ** (busy_s / RATE_HALF_LIFE_S)
        self._images = self._images * kept + images
        self._busy_s = self._busy_s * kept + busy_s
        self._noted_at = now
