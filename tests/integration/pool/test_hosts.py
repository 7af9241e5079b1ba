"""Hosts in a worker's pool of loaders: none gets more than its share, none waits for another."""

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


def test_no_more_of_one_host_are_fetched_at_a_time_than_its_limit(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    """Of all loaders together; what is parked keeps no image of another host waiting."""
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


def test_one_host_has_half_of_the_slots_however_many_it_may_have(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    pool = make_pool(fetches_per_loader=5, fetches_per_host=32)
    site.open.clear()
    pool.load(*site.uris(6))
    pool.load(*other.uris(3))
    assert pool.answers(3) == {(other.address, True): 3}
    assert site.begun == site.peak == 2
    site.open.set()
    assert pool.answers(6) == {(site.address, True): 6}


def test_a_host_that_hangs_leaves_the_others_what_they_have_without_it(
    make_pool: MakePool, site: Site, other: Site
) -> None:
    """As many at a time as before, for as long as it hangs."""
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
    """Two of the site's images are fetched, and as many as may be are parked."""
    site.open.clear()
    most = 2 + PARKED_A_PLACE * 2
    pool.load(*site.uris(most))
    until(lambda: site.begun == 2)
    return site.uris(most)


def test_a_line_that_is_full_refuses_an_image_until_the_host_has_got_on(
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


def test_where_many_may_be_parked_none_is_refused(make_pool: MakePool, site: Site) -> None:
    pool = make_pool(fetches_per_loader=4, options={"parked": 1000})
    pool.load(*site.uris(100))
    assert pool.answers(100) == {(site.address, True): 100}
    assert site.peak <= 2


def test_what_is_parked_is_not_fetched_after_the_pool_accepts_no_more(
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


def test_images_of_a_loader_that_dies_keep_their_places_and_no_others(
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


def test_slots_that_wait_for_the_batch_hold_the_tasks_back_and_refuse_nothing(
    make_pool: MakePool, site: Site
) -> None:
    """Then it is not the host that is slow, and nothing is to be deferred for its sake."""
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
