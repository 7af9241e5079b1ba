"""Hosts in a loader pool: none gets more than its share, and none waits for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.flow import PARKED_A_PLACE
from tests.integration.dispatching import WITHIN_S, until
from tests.pools import MakePool, SitePool, making_pools
from tests.servers.sites import Site, serving
from worker.pool.pool import LineFull, Loaded, PoolClosed


@pytest.fixture
def site() -> Iterator[Site]:
    with serving("127.0.0.2") as site:
        yield site


@pytest.fixture
def other() -> Iterator[Site]:
    with serving("127.0.0.3") as site:
        yield site


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    yield from making_pools()


def test_a_host_has_at_most_its_limit_of_fetches_at_once(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    """The limit holds for all loaders together. Parked images delay no other host."""
    pool = make_pool(loaders=2, fetches_per_loader=5, fetches_per_host=3)
    site.open.clear()
    pool.load(*site.uris(10))
    until(lambda: site.begun == 3)
    pool.load(*other.uris(5))
    assert pool.answers(5) == {(other.address, True): 5}
    assert site.begun == 3
    site.open.set()
    assert pool.answers(10) == {(site.address, True): 10}
    assert site.peak == 3
    assert other.peak <= 3


def test_one_host_gets_at_most_half_of_the_slots(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    pool = make_pool(fetches_per_loader=5, fetches_per_host=32)
    site.open.clear()
    pool.load(*site.uris(6))
    pool.load(*other.uris(3))
    assert pool.answers(3) == {(other.address, True): 3}
    until(lambda: site.begun == 2)
    assert site.peak == 2
    site.open.set()
    assert pool.answers(6) == {(site.address, True): 6}


def test_a_hanging_host_does_not_slow_down_the_others(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    """The other host has as many fetches at once as before."""
    pool = make_pool(fetches_per_loader=4)
    peaks = []
    for hangs in (False, True):
        if hangs:
            site.open.clear()
            pool.load(*site.uris(8))
            until(lambda: site.begun == 2)
        other.open.clear()
        other.begun = other.peak = 0
        pool.load(*other.uris(8))
        until(lambda: other.begun == 2)
        other.open.set()
        assert pool.answers(8) == {(other.address, True): 8}
        peaks.append(other.peak)
    assert peaks == [2, 2]
    assert site.begun == 2


def fill(pool: SitePool, site: Site) -> list[str]:
    """Start two fetches from the site, and park as many further images as possible."""
    site.open.clear()
    most = 2 + PARKED_A_PLACE * 2
    pool.load(*site.uris(most))
    until(lambda: site.begun == 2)
    return site.uris(most)


def test_a_full_line_refuses_images_until_the_host_continues(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    pool = make_pool(fetches_per_loader=4)
    held = fill(pool, site)
    with pytest.raises(LineFull):
        pool.load(*site.uris(1))
    pool.load(*other.uris(1))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.inner.await_room, site.uris(1), WITHIN_S)
        site.open.set()
        waiting.result()
    expected = {(site.address, True): len(held), (other.address, True): 1}
    assert pool.answers(len(held) + 1) == expected
    pool.load(*site.uris(1))
    assert pool.answers(1) == {(site.address, True): 1}


def test_with_a_long_line_no_image_is_refused(make_pool: MakePool, site: Site) -> None:
    pool = make_pool(fetches_per_loader=4, options={"parked": 1000})
    pool.load(*site.uris(100))
    assert pool.answers(100) == {(site.address, True): 100}
    assert site.peak <= 2


def test_parked_images_are_not_fetched_once_the_pool_stops_accepting(
    make_pool: MakePool, site: Site
) -> None:
    pool = make_pool(fetches_per_loader=4)
    fill(pool, site)
    pool.inner.stop_accepting()
    site.open.set()
    assert pool.answers(2) == {(site.address, True): 2}
    assert not pool.inner.processes[0].requests
    with pytest.raises(PoolClosed):
        pool.load(*site.uris(1))


def test_images_of_a_dead_loader_keep_only_their_own_places(
    make_pool: MakePool, site: Site
) -> None:
    pool = make_pool(fetches_per_loader=4)
    fill(pool, site)
    first = until(lambda: pool.inner.processes[0])
    of_the_first, site.open = site.open, threading.Event()
    first.child.kill()
    until(lambda: site.begun == 4)
    of_the_first.set()
    until(lambda: site.now == 2)
    site.peak = 0
    site.open.set()
    assert pool.answers(10) == {(site.address, True): 10}
    assert site.begun == 12
    assert site.peak <= 2


def test_tasks_wait_while_slots_wait_for_the_batch(make_pool: MakePool, site: Site) -> None:
    """The host is not slow in this case, so no image may be deferred because of it."""
    pool, loaded = make_pool(fetches_per_loader=4), list[Loaded]()

    def load(number: int) -> None:
        for uri in site.uris(number):
            pool.inner.load(uri, loaded.append)

    load(2 + PARKED_A_PLACE * 2)
    until(lambda: len(loaded) == 4)
    assert not pool.inner._scheduler._hosts.has_room("127.0.0.2")
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load, 4)
        try:
            until(lambda: pool.inner._scheduler._room._waiters)
            for n in range(2 + PARKED_A_PLACE * 2 + 4):
                until(lambda n=n: len(loaded) > n)
                loaded[n].release()
        finally:
            pool.inner.stop_accepting()
        assert loading.exception() is None
