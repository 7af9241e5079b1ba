"""`resnextq classify`: images in, their classes out, in this process; no queue and no SQL.

The command line hands in entries and prints the records that come back, in the order of the
entries. Loading is the worker's own (`worker.pool.pool`, `worker.loader.fetch.fetcher`) and runs
ahead of the classifier (`worker.commands.classify_input`); only the batches are made here.
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

if TYPE_CHECKING:  # torch takes seconds to load, and mistakes are told before that
    from resnext.classifier import Classifier

log = logging.getLogger(__name__)

HUNG_AFTER_S: Final = 600.0
"""More than in a worker: nothing is warmed up here, so a first batch also measures its layers."""


@dataclass(frozen=True)
class Settled:
    """An image and what a record says of it: `contract.record.classified` or `failed`."""

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
    """A record an entry, in their order, each as soon as those before it are there.

    Args:
        settings: of model, fetching and loaders.
        entries: read by another thread, as there is room for more.
        named: every `root` of the entries; the loaders can read nothing else.
        ahead: so many of them may be read before anything is started: whether there are fewer
            decides about loaders and batch.
        tell: called with the licence of the weights, in words for people.

    Raises:
        WeightsError, UsageError: see `worker.batch.model`.
        SourceError: the entries cannot be read; the records before are given out.
        UnavailableError: the classifier failed on a batch; the loaders are not as protected as
            `RESNEXT_SANDBOX` requires; the system permits no loader or no thread.
    """
    # A decoder that was taken over is of the same user, and would read what /proc has of this one.
    prctl(PR_SET_DUMPABLE, 0)
    log_lines(settings.log_level, "resnextq: %(message)s")
    if settings.sandbox == "required":
        tell_protections(settings)
    entries = iter(entries)
    first = list(islice(entries, ahead))
    if not first:
        tell("There is no image in what was given.")
        return
    settings = _fitting(settings, None if len(first) == ahead else len(first))
    # A host's line has room for every image that is in flight, so none is refused.
    preprocessing = find_model(settings).preprocessing
    loaders = LoaderPool(settings, preprocessing, parked=ROOM, named=named)
    feed = Feed(
        loaders,
        chain(first, entries),
        max_attempts=settings.max_attempts,
        retry_backoff_s=settings.retry_backoff_s,
    )
    try:
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
    """To be entered for each batch. A device that hangs does not let go of the thread that waits
    for it, so another one ends this process; the loaders end with it.
    """
    busy = Busy()
    watchdog = Watchdog(busy.seconds, _end, hung_after_s=HUNG_AFTER_S)
    if classifier.device != "cpu":  # where a batch takes as long as it takes
        watchdog.start()
    try:
        yield busy
    finally:
        watchdog.close()


def _end(busy_s: float) -> None:
    """In the watchdog's thread. Each line was flushed when it was printed."""
    log.error(
        "The device hangs: it has had a batch for %.0f s. Look at it with nvidia-smi, and start "
        "this again once it works.",
        busy_s,
    )
    os._exit(UnavailableError.exit_code)


def settle(
    feed: Feed, classifier: Classifier, busy: Busy, *, max_wait_s: float
) -> Iterator[Settled]:
    """Batch by batch, in the order in which images come; `busy` sees each.

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
    """The same, by position from 0."""
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
    """`how` is said of what was classified."""
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
    """For a few images (None: for many) no more loaders and no larger a batch than there are,
    and no compiling, which takes longer than they do.
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
