"""A host's rate limit, which all workers share through a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from contract.broker.connection import make_celery
from contract.settings import Settings
from tests.integration.dispatching import on_broker, until
from tests.pools import MakePool, SitePool, making_pools
from tests.servers.sites import Site, picture, serving
from worker.embedded.valkey import MAX_SOCKET_PATH_BYTES, Valkey
from worker.pool.host_rate import HostRate, window_of

# One image, and then no other within the time of a test.
ONE_AN_HOUR = 1 / 3600


@pytest.fixture
def site() -> Iterator[Site]:
    with serving("127.0.0.2") as site:
        yield site


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    yield from making_pools(fetches_per_loader=4, file_roots=(tmp_path,))


class Rate(HostRate):
    """A host rate that counts refusals."""

    refusals = 0

    def _wait_s(self, host: str) -> float:
        wait_s = super()._wait_s(host)
        self.refusals += wait_s > 0
        return wait_s


@pytest.fixture(params=["socket", "loopback"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey at `redis+socket://` or, if the path is too long for a socket, at `redis://`."""
    length = MAX_SOCKET_PATH_BYTES if request.param == "loopback" else 1
    server = Valkey(tmp_path / ("v" * length), append_only=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def apps(redis: Valkey) -> Iterator[list[Celery]]:
    """The Celery apps of two workers."""
    apps = [make_celery(on_broker(Settings(), redis.url)) for _ in range(2)]
    yield apps
    for app in apps:
        app.close()


def file_in(folder: Path) -> str:
    (folder / "a.png").write_bytes(picture())
    return (folder / "a.png").as_uri()


def load_file(pool: SitePool, uri: str) -> None:
    """Load a file, which has no host and therefore no rate limit."""
    pool.load(uri)
    assert pool.answers(1) == {(uri.rpartition("/")[0], True): 1}


@pytest.mark.parametrize(
    ("images_per_s", "amount", "seconds"),
    [(5, 5, 1), (2.5, 5, 2), (1.9, 19, 10), (1, 1, 1), (0.3, 1, 4), (0.1, 1, 10), (7.77, 31, 4)],
)
def test_a_rate_becomes_whole_images_and_seconds_and_is_never_exceeded(
    images_per_s: float, amount: int, seconds: int
) -> None:
    window = window_of(images_per_s)
    assert (window.amount, window.get_expiry()) == (amount, seconds)
    assert amount / seconds <= images_per_s


def test_two_workers_share_one_rate(
    apps: list[Celery], make_pool: MakePool, site: Site, tmp_path: Path
) -> None:
    rates = [Rate(app, ONE_AN_HOUR) for app in apps]
    pools = [make_pool(options={"rate": rate}) for rate in rates]
    for pool in pools:
        pool.load(*site.uris(1))
    until(lambda: any(rate.refusals for rate in rates))
    permitted, refused = sorted(pools, key=lambda pool: rates[pools.index(pool)].refusals)
    assert permitted.answers(1) == {(site.address, True): 1}
    load_file(refused, file_in(tmp_path))
    assert site.begun == 1


def test_images_are_fetched_as_the_rate_permits(
    apps: list[Celery], make_pool: MakePool, site: Site
) -> None:
    pool = make_pool(options={"rate": Rate(apps[0], 20.0), "parked": 100})
    pool.load(*site.uris(50))
    assert pool.answers(50) == {(site.address, True): 50}


def test_during_a_redis_outage_images_wait_and_files_do_not(
    redis: Valkey, apps: list[Celery], make_pool: MakePool, site: Site, *, tmp_path: Path, caplog
) -> None:
    pool = make_pool(options={"rate": HostRate(apps[0], 1000.0), "parked": 100})
    pool.load(*site.uris(1))
    assert pool.answers(1) == {(site.address, True): 1}
    redis.kill()
    pool.load(*site.uris(3))
    until(lambda: "Redis cannot be asked for the rate of hosts" in caplog.text)
    load_file(pool, file_in(tmp_path))
    assert site.begun == 1
    redis.start()
    assert pool.answers(3) == {(site.address, True): 3}
    assert caplog.text.count("Redis cannot be asked") == 1


def test_a_pool_can_be_closed_during_a_redis_outage(
    redis: Valkey, apps: list[Celery], make_pool: MakePool, site: Site, caplog
) -> None:
    redis.kill()
    pool = make_pool(options={"rate": HostRate(apps[0], 1000.0)})
    pool.load(*site.uris(1))
    until(lambda: "Redis cannot be asked" in caplog.text)
    pool.inner.close()
    assert site.begun == 0
