"""Thumbnails of what the network sees: chosen in the batcher's thread, made and stored in another.

The batcher calls `look` with each batch and its answers, while the pixels are still in the batch's
memory. The chosen pixels are copied, and a thread makes JPEGs of them. After a run's rows are
stored, its thumbnails follow; one transaction stores those of many runs. So a run that has lost
its chunk writes none, nothing waits for thumbnails, and an error in one does not affect results.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from queue import Empty, SimpleQueue
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from contract.database.waits import Database
from contract.thumbnails import ThumbnailRow, insert_thumbnails
from resnext.picture.resample import Pixels
from resnext.predictions import Predictions
from worker.batch.batch import Arrived
from worker.chunk.claim import Claim
from worker.chunk.run import ChunkRun
from worker.thumbnail.jpeg import JpegMaker
from worker.thumbnail.sample import sample

log = logging.getLogger(__name__)

# At most this many copies of pixels wait for the thread, each of 147 KiB for a crop of 224. Further
# images get no thumbnail, because classifying is more important.
MOST_WAITING: Final = 512
# Rows wait until there are this many, or for this long, to share a transaction.
ROWS_AT_ONCE: Final = 256
WRITE_AFTER_S: Final = 0.5
# For at most this many jobs the worker knows which classes have a thumbnail. A job that it has
# forgotten may get more of a class, but SQL keeps only a few per class.
MOST_JOBS: Final = 1024
CLOSE_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Taken:
    run: ChunkRun
    position: int
    sampled: bool
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class _Stored:
    run: ChunkRun
    positions: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Left:
    run: ChunkRun


@dataclass(frozen=True, slots=True)
class _Batch:
    parts: Sequence[Arrived]
    ends: Sequence[int]
    """For each part: the index after its last image in the batch."""
    pixels: Pixels

    def sampled(self) -> Iterator[int]:
        """Indices in the batch of the images that are in their job's sample."""
        for part, end in zip(self.parts, self.ends, strict=True):
            if sampled := part.run.sampled:
                for place, (position, _) in enumerate(part.images, end - len(part.images)):
                    if position in sampled:
                        yield place

    def image(self, place: int) -> tuple[ChunkRun, int]:
        """The run and the position of the image at this index."""
        n = bisect_right(self.ends, place)
        part = self.parts[n]
        return part.run, part.images[place - self.ends[n]][0]  # counted from the part's end


class Thumbnails:
    """Owns the thread, and the record of the classes that this worker has seen in each job."""

    def __init__(self, database: Database, *, wanted: int, classes: int) -> None:
        """
        Args:
            database: stores the thumbnails.
            wanted: the number of images in a job's sample; 0 means no thumbnails at all.
            classes: the number of the network's classes.
        """
        self._database = database
        self._wanted = wanted
        self._seen = np.zeros((MOST_JOBS, classes), bool)
        self._rows: dict[int, int] = {}  # the job's row in `_seen`, by its number, oldest first
        self._queue: SimpleQueue[_Taken | _Stored | _Left | None] = SimpleQueue()
        # Thumbnails whose images have no row in SQL yet. When a run is gone, so are its thumbnails.
        self._made: WeakKeyDictionary[ChunkRun, dict[int, ThumbnailRow]] = WeakKeyDictionary()
        self._ready: list[ThumbnailRow] = []
        self._write_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="thumbnails", daemon=True)

    def start(self) -> None:
        if self._wanted:
            self._thread.start()

    def close(self) -> None:
        """Stores the remaining thumbnails, unless the database takes too long."""
        if self._wanted:
            self._queue.put(None)
            self._thread.join(CLOSE_WITHIN_S)

    def sampled(self, claim: Claim) -> frozenset[int]:
        """Positions of the chunk that are in its job's sample."""
        job = claim.message.job_number
        return sample(job, claim.images.keys(), total=claim.total, wanted=self._wanted)

    # These run in the batcher's thread.

    def look(self, parts: Sequence[Arrived], pixels: Pixels, predictions: Predictions) -> None:
        """Copies the chosen images of a batch. Call this before the runs get their answers.

        Args:
            parts: the parts of the batch.
            pixels: (N, crop, crop, 3) uint8, in the order of the parts; not kept.
            predictions: the predictions of the same images.
        """
        if not self._wanted:
            return
        batch = _Batch(parts, list(accumulate(len(part.images) for part in parts)), pixels)
        rows = np.repeat(
            [self._row(part.run) for part in parts], [len(part.images) for part in parts]
        )
        class_ids, finite = predictions.class_ids[:, 0], predictions.finite
        for place in batch.sampled():
            if self._take(batch, place, sampled=True) and finite[place]:
                self._seen[rows[place], class_ids[place]] = True
        for place in np.flatnonzero(finite & ~self._seen[rows, class_ids]).tolist():
            of_class = rows[place], class_ids[place]
            if not self._seen[of_class]:  # an earlier image of the batch may have set it
                self._seen[of_class] = self._take(batch, place, sampled=False)

    def _row(self, run: ChunkRun) -> int:
        """Returns the row of the run's job in `_seen`."""
        job = run.claim.message.job_number
        row = self._rows.get(job)
        if row is None:
            row = len(self._rows)
            if row == MOST_JOBS:
                row = self._rows.pop(next(iter(self._rows)))
                self._seen[row] = False
            self._rows[job] = row
        return row

    def _take(self, batch: _Batch, place: int, *, sampled: bool) -> bool:
        """Copies an image. Returns False if too many wait, or the image was handed back."""
        run, position = batch.image(place)
        if run.is_closed or self._queue.qsize() >= MOST_WAITING:
            return False
        self._queue.put(_Taken(run, position, sampled, batch.pixels[place].copy()))
        run.has_thumbnails = True
        return True

    # These run in any thread.

    def stored(self, run: ChunkRun, positions: frozenset[int]) -> None:
        """Call this when these images of the run have their rows in SQL."""
        if run.has_thumbnails and positions:
            self._queue.put(_Stored(run, positions))

    def left(self, run: ChunkRun) -> None:
        """Call this when nothing more of the run will be stored."""
        if run.has_thumbnails:
            self._queue.put(_Left(run))

    # These run in the thread for thumbnails.

    def _serve(self) -> None:
        maker = JpegMaker()
        while True:
            try:
                item = self._queue.get(timeout=self._wait_s())
            except Empty:
                self._write()
                continue
            if item is None:
                break
            try:
                self._take_in(item, maker)
            except Exception:
                log.exception("A thumbnail could not be made. Its image has none.")
            if len(self._ready) >= ROWS_AT_ONCE or self._wait_s() == 0:
                self._write()
        self._write()
        maker.close()

    def _wait_s(self) -> float | None:
        """Seconds until the ready rows must be written, or None if there are none."""
        return max(0.0, self._write_at - time.monotonic()) if self._ready else None

    def _take_in(self, item: _Taken | _Stored | _Left, maker: JpegMaker) -> None:
        job = item.run.claim.message.job_number
        match item:
            case _Taken(run, position, sampled, pixels):
                row = ThumbnailRow(job, position, sampled, maker.make(pixels))
                self._made.setdefault(run, {})[position] = row
            case _Stored(run, positions):
                if not self._ready:
                    self._write_at = time.monotonic() + WRITE_AFTER_S
                made = self._made.get(run, {})
                self._ready += [made.pop(one) for one in positions & made.keys()]
            case _Left(run):
                if self._made.pop(run, None) and job in self._rows:
                    # Some classes got no thumbnail after all, so all of them are chosen again.
                    self._seen[self._rows[job]] = False

    def _write(self) -> None:
        """Stores all ready rows, except those that SQL refuses."""
        rows, self._ready = self._ready, []
        try:
            self._insert(rows)
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            log.warning("The database refuses some thumbnails; storing them singly: %s", reason)
            for row in rows:
                with suppress(SQLAlchemyError):  # for example, its job is being deleted
                    self._insert([row])

    def _insert(self, rows: Sequence[ThumbnailRow]) -> None:
        if rows:
            self._database.transact(lambda connection: insert_thumbnails(connection, rows))
