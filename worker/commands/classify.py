"""`resnextq classify`: classifies images in this process, without a queue and without SQL.

The command line passes entries, and prints the returned records in the order of the entries. Images
are loaded as in a worker (`worker.pool.pool`, `worker.loader.fetch.fetcher`) and ahead of the
classifier (`worker.commands.classify_input`). This module makes the batches.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from contract.errors import UnavailableError
from contract.failure import Failure
from contract.log import log_lines
from contract.models import title_of
from contract.record import Record, classified, failed, make_record
from contract.settings import BATCH_IMAGES, Settings
from resnext.predictions import best_of_each
from resnext.run.watchdog import Busy, Watchdog
from worker.batch.model import find_model, load_classifier
from worker.chunk.outcome import Provenance
from worker.commands.classify_input import ROOM, Entry, Feed, Image
from worker.loader.sandbox.prctl import PR_SET_DUMPABLE, prctl
from worker.loader.sandbox.protections import tell_protections
from worker.pool.limits import naming_limits
from worker.pool.pool import LoaderPool, LoadFailed

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Classifier

log = logging.getLogger(__name__)

HUNG_AFTER_S: Final = 600.0
"""Longer than in a worker: without a warm-up, the first batch also measures its layers."""


@dataclass(frozen=True)
class Settled:
    """An image and its answer: `contract.record.classified` or `failed`."""

    image: Image
    answer: Record
    provenance: Provenance


def classify(
    settings: Settings,
    entries: Iterable[Entry],
    *,
    named: Iterable[Path] = (),
    ahead: int,
    tell: Callable[[str], object],
) -> Iterator[Record]:
    """Yields one record per entry, in their order, each as soon as it and all earlier ones are
    ready.

    Args:
        settings: the settings for the model, fetching and loaders.
        entries: read by another thread, when there is room for more.
        named: every `root` of the entries. The loaders can read no other files.
        ahead: how many entries to read before the start. If there are fewer, the number of loaders
            and the batch are smaller.
        tell: called with texts for people: what is loaded, and the licence of the weights.

    Raises:
        WeightsError, UsageError: see `worker.batch.model`.
        SourceError: the entries cannot be read. The records of earlier entries come first.
        UnavailableError: the classifier failed on a batch, the loaders lack protections that
            `RESNEXT_SANDBOX` requires, or the system permits no loader or no thread.
    """
    # A decoder that was taken over runs as the same user. It could otherwise read this process in
    # /proc.
    prctl(PR_SET_DUMPABLE, 0)
    log_lines(settings.log_level, "resnextq: %(message)s")
    if settings.sandbox == "required":
        tell_protections(settings)
    entries = iter(entries)
    first = list(islice(entries, ahead))
    if not first:
        tell("The sources contain no images.")
        return
    settings = _fitting(settings, None if len(first) == ahead else len(first))
    # Each host's line has room for all images in flight, so the pool refuses none.
    preprocessing = find_model(settings).preprocessing
    loaders = LoaderPool(settings, preprocessing, parked=ROOM, named=named)
    feed = Feed(
        loaders,
        chain(first, entries),
        max_attempts=settings.max_attempts,
        retry_backoff_s=settings.retry_backoff_s,
    )
    try:
        tell(f"loading {title_of(settings.model, settings.weights)}")
        with naming_limits():
            loaders.start()
            feed.start()
            classifier = load_classifier(settings, warm_up=False)
        title = title_of(classifier.model, classifier.weights)
        tell(f"licence of {title}: {classifier.licence}")
        max_wait_s = settings.max_batch_wait_ms / 1000
        how: Record = {"precision": classifier.precision, "orientation": settings.orientation}
        with _ending_if_it_hangs(classifier) as busy:
            for settled in in_order(settle(feed, classifier, busy, max_wait_s=max_wait_s)):
                yield _record(settled, title, how)
                feed.make_room()
    finally:
        loaders.close()
        feed.close()


@contextmanager
def _ending_if_it_hangs(classifier: Classifier) -> Iterator[Busy]:
    """Yields a `Busy` to enter for each batch. If the device hangs, the waiting thread is stuck, so
    another thread ends this process, and the loaders with it.
    """
    busy = Busy()
    watchdog = Watchdog(busy.seconds, _end, hung_after_s=HUNG_AFTER_S)
    if classifier.device != "cpu":  # on a CPU a batch may take any time
        watchdog.start()
    try:
        yield busy
    finally:
        watchdog.close()


def _end(busy_s: float) -> None:
    """Runs in the watchdog's thread. All printed lines are already flushed."""
    log.error(
        "The device hangs: it has been computing one batch for %.0f s. Check it with nvidia-smi, "
        "and start this again once it works.",
        busy_s,
    )
    os._exit(UnavailableError.exit_code)


def settle(
    feed: Feed, classifier: Classifier, busy: Busy, *, max_wait_s: float
) -> Iterator[Settled]:
    """Classifies batch by batch, in the order in which images arrive. Enters `busy` for each batch.

    Raises:
        UnavailableError: the classifier failed.
    """
    came = True
    while came:
        came = False
        pixels = classifier.room()
        batch: list[tuple[Image, Provenance]] = []
        for arrival in feed.take(len(pixels), max_wait_s):
            came = True
            image, load = arrival.image, arrival.load
            if isinstance(load, LoadFailed):
                answer = failed(load.failure.code, load.failure.detail)
                yield Settled(image, answer, load.provenance)
            else:
                pixels[len(batch)] = load.pixels
                load.release()
                batch.append((image, load.provenance))
        if batch:
            with busy:
                answers = list(_answers(classifier, pixels[: len(batch)]))
            for (image, provenance), answer in zip(batch, answers, strict=True):
                yield Settled(image, answer, provenance)


def in_order(settled: Iterable[Settled]) -> Iterator[Settled]:
    """Yields the same images in the order of their positions, from 0."""
    waiting: dict[int, Settled] = {}
    position = 0
    for one in settled:
        waiting[one.image.position] = one
        while position in waiting:
            yield waiting.pop(position)
            position += 1


def _answers(classifier: Classifier, pixels: np.ndarray) -> Iterator[Record]:
    """(N, crop, crop, 3) uint8 → N answers."""
    try:
        found = classifier.classify(pixels)
    except Exception as error:
        raise UnavailableError(
            f"The classifier failed on a batch of {len(pixels)} images: "
            f"{type(error).__name__}: {error}"
        ) from error
    for best in best_of_each(found):
        if best is None:
            yield failed(Failure("not_finite").code, "")
        else:
            labels = [classifier.spec.categories[class_id] for class_id in best.class_ids]
            yield classified(zip(labels, best.class_ids, best.scores, strict=True))


def _record(settled: Settled, title: str, how: Record) -> Record:
    """Makes the record of an image. `how` is added if the image was classified."""
    image, answer = settled.image, settled.answer
    return make_record(
        position=image.position,
        uri=image.entry.uri,
        ref=image.entry.ref,
        answer=answer,
        model=title,
        attempts=image.attempt,
        known=(how if "top5" in answer else {}) | settled.provenance._asdict(),
    )


def _fitting(settings: Settings, images: int | None) -> Settings:
    """Adapts the settings to the number of images (None: many). For a few images, it limits loaders
    and the batch to their number, and does not compile, which would take longer than they do.
    """
    if images is None:
        return settings
    return settings.model_copy(
        update={
            "engine": "eager" if settings.engine == "auto" else settings.engine,
            "loaders": min(images, settings.loaders),
            "fetches_per_loader": min(images, settings.fetches_per_loader),
            "batch_images": min(images, settings.batch_images or BATCH_IMAGES),
        }
    )
