"""Loads images for `classify`, a bounded number ahead of the classifier.

A thread reads the entries, one for each image of the command line, and gives them to the loaders.
`worker.commands.classify` takes the loaded images, in any order. An image that fails with a
transient error is loaded again after a wait, up to `max_attempts` times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from contract.failure import Failure
from contract.uris import MAX_URI_CHARS, refusal
from worker.chunk.outcome import Provenance
from worker.chunk.retry_wait import retry_wait_s
from worker.pool.backoff import Backoff
from worker.pool.pool import Loaded, LoaderPool, LoadFailed, PoolClosed

# Images in flight, from their URI to their printed line. Lines are printed in order, so this many
# images may wait for one that hangs. Each is a record of a kilobyte, not a picture.
ROOM: Final = 10_000
# The mean wait before the second attempt. It is short, because a user is waiting, and doubles with
# each attempt.
FIRST_RETRY_S: Final = 0.5
# The longest wait. If a server asks for a longer one, the image is not tried again.
LONGEST_RETRY_S: Final = 10.0


class Entry(Protocol):
    """An image on the command line or in a list."""

    @property
    def uri(self) -> str: ...

    @property
    def ref(self) -> str | None:
        """The user's own id."""

    @property
    def root(self) -> Path | None:
        """The file or folder that the user named on the command line; None if it is in a list."""


@dataclass(frozen=True)
class Image:
    position: int
    entry: Entry
    attempt: int = 1


@dataclass(frozen=True)
class Arrival:
    """An image that was loaded, or failed to load."""

    image: Image
    load: Loaded | LoadFailed


@dataclass(frozen=True)
class _End:
    """The end of the entries: how many there were, and the error if they could not be read."""

    images: int
    error: BaseException | None


class Feed:
    """Owns the images in flight. Only its threads call the pool's `load`."""

    def __init__(
        self,
        loaders: LoaderPool,
        entries: Iterable[Entry],
        *,
        max_attempts: int,
        retry_backoff_s: float,
    ) -> None:
        self._loaders = loaders
        self._entries = entries
        self._max_attempts = max_attempts
        self._first_retry_s = min(retry_backoff_s, FIRST_RETRY_S)
        self._room = threading.Semaphore(ROOM)
        self._closed = False
        self._arrivals: SimpleQueue[Arrival | _End] = SimpleQueue()
        self._end: _End | None = None
        self._taken = 0
        self._again: Backoff[Image] = Backoff(self._load)
        # A thread that waits for standard input cannot be stopped. It ends with the process.
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self) -> None:
        self._again.start()
        self._reader.start()

    def take(self, most: int, max_wait_s: float) -> Iterator[Arrival]:
        """Waits for a first image, and yields it and those that arrive soon after, at most `most`.
        Yields none only at the end.

        Raises:
            Exception: further entries could not be read. All earlier images have been yielded.
        """
        leaves_at: float | None = None
        for _ in range(most):
            arrival = self._next(leaves_at)
            if arrival is None:
                return
            yield arrival
            leaves_at = leaves_at or time.monotonic() + max_wait_s

    def make_room(self) -> None:
        """Admits another image. Call this after each printed line."""
        self._room.release()

    def close(self) -> None:
        """Begins no more images. Close the loaders first, so that no thread waits for them."""
        self._closed = True
        self._room.release()
        self._again.close()

    def _next(self, leaves_at: float | None) -> Arrival | None:
        """Returns the next arrival, or None if there is none in time or there are no more."""
        while self._end is None or self._taken < self._end.images:
            wait_s = None if leaves_at is None else max(0.0, leaves_at - time.monotonic())
            try:
                arrival = self._arrivals.get(timeout=wait_s)
            except Empty:
                return None
            if isinstance(arrival, Arrival):
                self._taken += 1
                return arrival
            self._end = arrival
        if self._end.error is not None:
            raise self._end.error
        return None

    def _read(self) -> None:
        images, error = 0, None
        try:
            for entry in self._entries:
                self._room.acquire()
                if self._closed:
                    return
                self._load(Image(images, entry))
                images += 1
        except Exception as fault:  # noqa: BLE001  (`take` raises it)
            error = fault
        self._arrivals.put(_End(images, error))

    def _load(self, image: Image) -> None:
        """Gives an image to the loaders. Waits while all of them are busy."""
        uri = image.entry.uri
        # Longer URIs do not fit into a record.
        refused = refusal(uri, ()) if len(uri) > MAX_URI_CHARS else None
        if refused is not None:
            self._take_in(image, LoadFailed(refused, Provenance()))
            return
        with suppress(PoolClosed):
            self._loaders.load(uri, partial(self._take_in, image), root=image.entry.root)

    def _take_in(self, image: Image, load: Loaded | LoadFailed) -> None:
        """The pool's threads call this, once for each attempt."""
        if isinstance(load, LoadFailed) and load.failure.retried:
            failure = load.failure
            asked_s = failure.retry_after_s or 0.0
            if image.attempt < self._max_attempts and asked_s <= LONGEST_RETRY_S:
                again = replace(image, attempt=image.attempt + 1)
                wait_s = retry_wait_s(
                    image.attempt, mean_s=self._first_retry_s, longest_s=LONGEST_RETRY_S
                )
                self._again.put(again, max(asked_s, wait_s))
                return
            if asked_s > LONGEST_RETRY_S:
                load = replace(load, failure=_impatient(failure, asked_s))
        self._arrivals.put(Arrival(image, load))


def _impatient(failure: Failure, asked_s: float) -> Failure:
    words = f"{failure.detail}; not tried again, because the server asks for {asked_s:.0f} s"
    return Failure(failure.code, words.removeprefix("; "), failure.retry_after_s)
