"""Real loader pools, and the outcomes of the images that a test gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from contract.failure import Failure
from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.servers.sites import LOOPBACK
from tests.wait import WITHIN_S
from worker.pool.pool import Loaded, LoaderPool, LoadFailed


class Pool:
    """A pool, with the outcome of each image by the image's name."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        preprocessing = find_spec("resnext101_32x4d").preprocessing
        self.inner = LoaderPool(settings, preprocessing, **options)
        self._answers: SimpleQueue[tuple[str, Failure | None]] = SimpleQueue()

    def load(self, *paths: Path) -> None:
        for path in paths:
            self.inner.load(path.as_uri(), self._note(path.name))

    def _note(self, name: str) -> Callable[[Loaded | LoadFailed], None]:
        def done(load: Loaded | LoadFailed) -> None:
            if isinstance(load, LoadFailed):
                self._answers.put((name, load.failure))
            else:
                load.release()
                self._answers.put((name, None))

        return done

    def answers(self, number: int) -> list[tuple[str, Failure | None]]:
        """Returns the next outcomes; None means pixels."""
        try:
            return [self._answers.get(timeout=WITHIN_S) for _ in range(number)]
        except Empty:
            raise AssertionError("an image has no answer") from None


class SitePool:
    """A pool, with the outcome of each image by the image's host. The order of outcomes varies."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.inner = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing, **options)
        self._answers: SimpleQueue[tuple[str, bool]] = SimpleQueue()

    def load(self, *uris: str) -> None:
        for uri in uris:
            self.inner.load(uri, self._note(uri.rpartition("/")[0]))

    def _note(self, address: str) -> Callable[[Loaded | LoadFailed], None]:
        def done(load: Loaded | LoadFailed) -> None:
            if isinstance(load, Loaded):
                load.release()
            self._answers.put((address, isinstance(load, Loaded)))

        return done

    def answers(self, number: int) -> Counter[tuple[str, bool]]:
        """Counts the next outcomes: by address, and whether there were pixels."""
        try:
            return Counter(self._answers.get(timeout=WITHIN_S) for _ in range(number))
        except Empty:
            raise AssertionError("an image has no answer") from None


MakePool = Callable[..., SitePool]


def making_pools(**usual: Any) -> Iterator[MakePool]:
    """For a fixture: makes and starts pools, and closes them at the end."""
    pools: list[SitePool] = []

    def make(*, options: dict[str, Any] | None = None, **settings: Any) -> SitePool:
        values = {"loaders": 1, "fetch_allow": (LOOPBACK,)} | usual | settings
        pools.append(SitePool(Settings(**values), **options or {}))
        pools[-1].inner.start()
        return pools[-1]

    yield make
    for pool in pools:
        pool.inner.close()
