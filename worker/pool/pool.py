"""The worker's side of the loaders: gives images to loader processes and takes their pixels back.

Tasks and `classify` call `load_all`, which waits while every slot is taken. This file only connects
the parts: `worker.pool.scheduler` decides which image goes where and when,
`worker.pool.replacement` keeps the processes running, and `worker.pool.reader` reads their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.settings import Settings
from resnext.picture.preprocess import Preprocessing
from worker.loader.config import LoaderConfig
from worker.pool.environment import LoaderEnvironment
from worker.pool.hosts import HostLimits, host_of
from worker.pool.limits import fitted
from worker.pool.load import (
    Callback,
    KeyedLoads,
    LineFull,
    Load,
    Loaded,
    LoadFailed,
    ManyCallback,
    PoolClosed,
    release,
)
from worker.pool.process import START_WITHIN_S, WALL_FACTOR, LoaderProcess
from worker.pool.reader import LoaderReader
from worker.pool.replacement import Replacement
from worker.pool.request import LoadRequest
from worker.pool.scheduler import Scheduler
from worker.pool.verdict import Deadlines

if TYPE_CHECKING:  # it loads a library for rates, which few users need
    from worker.pool.host_rate import HostRate

# Everything that callers of a pool need.
__all__ = [
    "LineFull", "Load", "LoadFailed", "Loaded", "LoaderPool", "PoolClosed", "release",
]  # fmt: skip


class LoaderPool:
    """Owns the loader processes and the slots. Safe for many threads."""

    def __init__(
        self,
        settings: Settings,
        preprocessing: Preprocessing,
        *,
        rate: HostRate | None = None,
        parked: int | None = None,
        named: Iterable[Path] = (),
    ) -> None:
        """
        Args:
            settings: the settings for loaders, fetching and hosts.
            preprocessing: the model's preprocessing. Its crop is the size of a slot.
            rate: the rate of one host. The pool starts and closes it.
            parked: how many images may wait for their hosts, for one host or for all. None: few,
                because a worker's other images may wait in SQL.
            named: every `root` that `load` will get. The loaders can read no other files.
        """
        self._rate = rate
        settings = fitted(settings)
        self._scheduler = Scheduler(
            loaders=settings.loaders,
            limits=HostLimits.of(settings, None if rate is None else rate.images_per_s, parked),
            owner=self,
            ask=None if rate is None else rate.ask,
        )
        self._reader = LoaderReader(self._scheduler.take_in, slots=settings.fetches_per_loader)
        self._replacement = Replacement(
            LoaderConfig.of(settings, preprocessing),
            LoaderEnvironment.of(settings, named),
            _deadlines(settings),
            scheduler=self._scheduler,
            reader=self._reader,
        )

    @property
    def processes(self) -> Sequence[LoaderProcess | None]:
        """The loaders; None in place of one that is being replaced."""
        return self._scheduler.processes

    @property
    def restarts(self) -> dict[str, int]:
        """The number of replaced loaders, by cause; see `worker.pool.verdict.cause_of`."""
        return self._replacement.deaths

    def start(self) -> None:
        """Starts the processes, as many as the system permits. Images that are loaded before they
        are ready wait. The thread that calls this must live as long as the pool.

        Raises:
            UnavailableError: the system permits no loader.
        """
        self._reader.start()
        self._replacement.start()
        if self._rate is not None:
            self._rate.start(self._scheduler.permit)

    def load(self, uri: str, done: Callback, *, root: Path | None = None) -> None:
        """Loads one image, as `load_all` does.

        `root` is a file or folder that may be read for this image, besides `file_roots`.

        Raises:
            LineFull: too many images of its host are parked already; see `await_room`.
            PoolClosed: `stop_accepting` or `close` has been called.
        """

        def done_all(loads: KeyedLoads) -> None:
            for _, load in loads:
                done(load)

        request = LoadRequest(None, uri, root, host_of(uri), done_all)
        if self._scheduler.submit([request], lambda _: None):
            raise LineFull

    def load_all(
        self,
        uris: Iterable[tuple[Any, str]],
        done: ManyCallback,
        begun: Callable[[list[Any]], object],
    ) -> list[Any]:
        """Gives images to the loaders with the most free slots, and waits while no slot is free. If
        an image's host has its share of the slots, the image is parked and goes out later.

        `begun` is called in this thread, with the keys of images that went out or are parked.
        `done` is called in a thread of the pool, with keys and loads, once for each image. It may
        be called before `begun`, and must not block. Neither is called after `close`. After
        `stop_accepting`, `done` is not called for images that were parked.

        Returns:
            Keys of images that are refused, because too many images of their hosts are parked
            already. See `await_room`.

        Raises:
            PoolClosed: `stop_accepting` or `close` has been called.
        """
        requests = [LoadRequest(key, uri, None, host_of(uri), done) for key, uri in uris]
        return [request.key for request in self._scheduler.submit(requests, begun)]

    def await_room(self, uris: Iterable[str], within_s: float) -> None:
        """Waits until images that were refused may be loaded again."""
        hosts = {host for uri in uris if (host := host_of(uri)) is not None}
        self._scheduler.await_room(hosts, within_s)

    def free_slots(self) -> int:
        """The number of images that could go out now."""
        return self._scheduler.free_slots()

    def stop_accepting(self) -> None:
        """Raises `PoolClosed` in waiting callers, and drops parked images."""
        self._scheduler.stop_accepting()

    def close(self) -> None:
        """Ends the processes."""
        self._scheduler.stop_accepting()
        self._replacement.close()
        self._reader.close()
        if self._rate is not None:
            self._rate.close()

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """See `release`."""
        self._scheduler.take_back(loads)


def _deadlines(settings: Settings) -> Deadlines:
    """Computes the deadlines. After the fetch deadline, each image in flight has its answer or
    waits for the decoder. After the decode deadline by the clock, the image in the decoder has its
    answer. So a loader that sends no answer for both, plus the time to start, is broken.
    """
    decode_s = settings.decode_deadline_s
    silence_s = settings.fetch_deadline_s + WALL_FACTOR * decode_s + START_WITHIN_S
    return Deadlines(decode_s=decode_s, silence_s=silence_s)
