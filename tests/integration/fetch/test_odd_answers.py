"""Each fault of a web server gets its error code at once, without waiting for a deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.failure import Failure
from tests.doubles.odd_web import ANSWERS, FETCHED, PICTURE, OddWeb, serving_oddities
from tests.fetching import Fetching
from worker.loader.fetch.fetcher import Fetched

FOR_EVER_S = 3600.0


@pytest.fixture(scope="module")
def web() -> Iterator[OddWeb]:
    with serving_oddities() as web:
        yield web


@pytest.fixture(scope="module")
def fetcher() -> Fetching:
    """One fetcher for all tests: no answer may spoil the connection for the next one."""
    return Fetching(fetch_allow="127.0.0.1", fetch_deadline_s=FOR_EVER_S, max_image_bytes=100_000)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_odd_answer_is_accepted_or_gets_its_code(
    web: OddWeb, fetcher: Fetching, name: str
) -> None:
    came = fetcher.fetch(web.uri(name))
    found = came.code if isinstance(came, Failure) else FETCHED
    assert (found, came) == (ANSWERS[name].becomes, came)
    if isinstance(came, Fetched):
        assert came.body == PICTURE
    else:
        assert came.retried == (came.code == "connect")


def test_a_good_answer_is_fetched_after_each_odd_one(web: OddWeb, fetcher: Fetching) -> None:
    for name in ANSWERS:
        fetcher.fetch(web.uri(name))
        assert fetcher.body(web.uri("200")) == PICTURE, name


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a%2fb.jpg", "/a%2fb.jpg"),
        ("/a%2Fb.jpg", "/a%2Fb.jpg"),
        ("/a%20b.jpg#part", "/a%20b.jpg"),
        ("/café.jpg", "/caf%C3%A9.jpg"),
        ("/100%.jpg", "/100%25.jpg"),
        ("/a[1]^{}.jpg?b=|", "/a%5B1%5D%5E%7B%7D.jpg?b=%7C"),
        ("/a/../b/./c.jpg", "/b/c.jpg"),
        ("//a;b=c@d:e.jpg?f=g&h", "//a;b=c@d:e.jpg?f=g&h"),
        ("/../../a/..", "/"),
        ("?b", "/?b"),
        ("", "/"),
    ],
)
def test_a_path_is_sent_as_given_with_invalid_characters_escaped(
    web: OddWeb, fetcher: Fetching, path: str, sent: str
) -> None:
    fetcher.fetch(f"{web.address}{path}")
    assert web.asked[-1] == sent


def test_a_redirect_to_utf8_is_recorded_as_a_uri(web: OddWeb, fetcher: Fetching) -> None:
    assert fetcher.fetch(web.uri("to UTF-8")) == Fetched(PICTURE, f"{web.address}/caf%C3%A9.jpg")
    assert fetcher.fetch(web.uri("to an escape")) == Fetched(PICTURE, f"{web.address}/a%2fb.jpg")


def test_a_connection_is_reused_for_the_next_picture_of_its_host(fetcher: Fetching) -> None:
    with serving_oddities() as web:
        for name in ("200", "chunks", "gzip", "to a blank", "204", "404 with a formula", "200"):
            fetcher.fetch(web.uri(name))
        assert len(web._open) == 1
