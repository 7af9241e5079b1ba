"""The images that `classify` loads ahead: their retries, their number, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.failure import Failure
from tests.doubles.loaders import PICTURE, AnsweringLoaders
from worker.chunk.outcome import Provenance
from worker.commands import classify_input as module
from worker.commands.classify import Settled, in_order
from worker.commands.classify_input import Arrival, Feed, Image
from worker.pool.backoff import Backoff
from worker.pool.pool import LoadFailed

TIMEOUT = LoadFailed(Failure("timeout", "no answer"), Provenance())


class Entry(NamedTuple):
    uri: str
    ref: str | None = None
    root: Path | None = None


MakeFeed = Callable[..., Feed]


@pytest.fixture
def loaders() -> AnsweringLoaders:
    return AnsweringLoaders()


@pytest.fixture
def make_feed(loaders: AnsweringLoaders) -> Iterator[MakeFeed]:
    feeds = []

    def make(entries: Iterable[Entry]) -> Feed:
        feed = Feed(loaders, entries, max_attempts=3, retry_backoff_s=0.0)  # type: ignore[arg-type]
        feeds.append(feed)
        feed.start()
        return feed

    yield make
    loaders.closed = True
    for feed in feeds:
        feed.close()


def uris(arrivals: Iterable[Arrival]) -> list[str]:
    return [arrival.image.entry.uri for arrival in arrivals]


def test_every_image_comes_exactly_once(make_feed) -> None:
    feed = make_feed(Entry(f"http://a.example/{n}") for n in range(5))
    assert uris(feed.take(3, 60.0)) == [f"http://a.example/{n}" for n in range(3)]
    assert uris(feed.take(3, 60.0)) == [f"http://a.example/{n}" for n in (3, 4)]
    assert uris(feed.take(3, 60.0)) == []


def test_only_transient_failures_are_retried(make_feed, loaders) -> None:
    gone = LoadFailed(Failure("http_404"), Provenance())
    loaders.answers = {"late": [TIMEOUT, PICTURE], "never": [TIMEOUT], "gone": [gone]}
    found = {
        arrival.image.entry.uri: (arrival.image.attempt, arrival.load)
        for arrival in make_feed(map(Entry, ("late", "never", "gone"))).take(3, 60.0)
    }
    assert found == {"late": (2, PICTURE), "never": (3, TIMEOUT), "gone": (1, gone)}


def test_a_server_that_asks_for_a_longer_wait_than_a_user_has_is_not_asked_again(
    make_feed, loaders
) -> None:
    busy = LoadFailed(Failure("http_429", "Too Many Requests", 3600.0), Provenance())
    loaders.answers = {"busy": [busy]}
    (arrival,) = make_feed([Entry("busy")]).take(1, 60.0)
    assert arrival.image.attempt == 1
    assert arrival.load.failure.detail == (
        "Too Many Requests; not tried again, because the server asks for 3600 s"
    )


def test_a_uri_that_is_too_long_to_send_to_a_loader_fails_alone(make_feed, loaders) -> None:
    long = "http://a.example/" + "x" * 60_000
    first, second = make_feed([Entry(long), Entry("http://a.example/2")]).take(2, 60.0)
    assert (first.load.failure.code, second.load) == ("bad_uri", PICTURE)
    assert loaders.tries == ["http://a.example/2"]


def test_an_error_of_the_source_is_raised_after_the_images_before_it(make_feed) -> None:
    def entries() -> Iterator[Entry]:
        yield Entry("1")
        yield Entry("2")
        raise OSError("the disk is gone")

    feed = make_feed(entries())
    assert uris(feed.take(2, 60.0)) == ["1", "2"]
    with pytest.raises(OSError, match="the disk is gone"):
        list(feed.take(2, 60.0))


def test_no_more_images_are_in_flight_than_there_is_room_for(
    make_feed, monkeypatch, loaders
) -> None:
    monkeypatch.setattr(module, "ROOM", 4)
    read, asked_further = [], threading.Event()

    def endless() -> Iterator[Entry]:
        for n in count():
            read.append(n)
            if n == 5:
                asked_further.set()
            yield Entry(str(n))

    feed = make_feed(endless())
    assert uris(feed.take(4, 60.0)) == ["0", "1", "2", "3"]
    assert not asked_further.is_set()
    feed.make_room()
    assert asked_further.wait(60)
    assert len(loaders.tries) == 5


def test_the_feed_can_be_closed_while_it_waits_for_room(make_feed, monkeypatch) -> None:
    monkeypatch.setattr(module, "ROOM", 1)
    feed = make_feed([Entry("1"), Entry("2")])
    assert uris(feed.take(1, 60.0)) == ["1"]
    feed.close()
    feed._reader.join(60)
    assert not feed._reader.is_alive()


def test_results_come_out_in_the_order_of_the_images() -> None:
    came = [Settled(Image(n, Entry("")), {}, Provenance()) for n in (2, 0, 1, 4, 3)]
    given = in_order(iter(came))
    assert [settled.image.position for settled in given] == [0, 1, 2, 3, 4]


def test_the_wait_between_attempts_stays_short_for_a_user_who_watches(monkeypatch, loaders) -> None:
    waits = []
    put_now = Backoff.put

    def put(backoff, item, delay_s) -> None:
        waits.append(delay_s)
        put_now(backoff, item, 0.0)

    monkeypatch.setattr(Backoff, "put", put)
    loaders.answers = {"never": [TIMEOUT]}
    feed = Feed(loaders, [Entry("never")], max_attempts=20, retry_backoff_s=5.0)  # type: ignore[arg-type]
    feed.start()
    (arrival,) = feed.take(1, 60.0)
    feed.close()
    assert arrival.image.attempt == 20
    assert max(waits) <= module.LONGEST_RETRY_S
