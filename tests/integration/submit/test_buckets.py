"""Images and lists in object stores, with an S3 server on loopback."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from itertools import chain

import obstore
import pytest

from contract.errors import SourceError, UnavailableError
from contract.objects import Stores
from producer.submit.check import check
from producer.submit.sources import buckets
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import apart
from producer.submit.sources.read import Reading, read_runs
from tests.lists import FORMATS, write
from tests.servers.objects import S3Server, Store, serving_answers, serving_s3

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "us-east-1"}
ROWS = [(f"id {n}", f"https://a.example.org/{n}.jpg", f"a cat, no {n}") for n in range(3_000)]
PICTURES = ["a.jpg", "b/1.PNG", "b/ü %20#?+.webp", "b/c/2.jpeg"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("lists")
    with serving_s3() as server:
        server.make_bucket("pictures")
        for key in (*PICTURES, "b/notes.txt", "b/_SUCCESS", "other/3.jpg"):
            prefix = "" if key.startswith("other") else "zoo/"
            server.put("pictures", f"{prefix}{key}", b"x")
        for n in range(1_100):  # more than one page
            server.put("pictures", f"many/{n:04d}.jpg", b"x")
        for layout in FORMATS:
            data = write(folder / layout, layout, ROWS).read_bytes()
            server.put("pictures", f"lists/all.{layout}", data)
        server.put("pictures", "lists/packed.csv.gz", gzip.compress(b"url\nhttp://a.org/1\n"))
        for n in range(3):
            server.put("pictures", f"parts/part-{n}.csv", f"url\nhttp://a.org/{n}\n".encode())
        yield server


@pytest.fixture(autouse=True)
def _keys(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def reading(endpoint: str, wanted: Wanted | None = None, **values) -> Reading:
    stores = {"enabled": ("s3",), "s3_endpoint": endpoint, "tries": 1} | values
    return Reading(wanted or Wanted(), Stores(**stores))


def uris(source: str, given: Reading) -> list[str]:
    return [entry.uri for entry in apart(read_runs([source], reading=given))]


def test_a_prefix_gives_its_images_and_reports_what_it_left_out(s3: S3Server) -> None:
    given = reading(s3.endpoint)
    found = list(check(read_runs(["s3://pictures/zoo/"], reading=given), [], (), ("s3",)))
    assert [image.uri for image in found] == [
        "s3://pictures/zoo/a.jpg",
        "s3://pictures/zoo/b/1.PNG",
        "s3://pictures/zoo/b/c/2.jpeg",
        "s3://pictures/zoo/b/%C3%BC%20%2520%23%3F+.webp",
    ]
    assert list(given.left_out.lines()) == [
        (
            "s3://pictures/zoo/: 2 files left out: not an image by its extension "
            "(no extension 1, .txt 1)"
        )
    ]


def test_a_prefix_of_many_pages_is_complete_and_in_order(s3: S3Server) -> None:
    expected = [f"s3://pictures/many/{n:04d}.jpg" for n in range(1_100)]
    assert uris("s3://pictures/many/", reading(s3.endpoint)) == expected


def test_a_pattern_selects_images_and_lists(s3: S3Server) -> None:
    assert uris("s3://pictures/zoo/*/2.*", reading(s3.endpoint)) == ["s3://pictures/zoo/b/c/2.jpeg"]
    found = uris("s3://pictures/parts/part-[12].csv", reading(s3.endpoint))
    assert found == ["http://a.org/1", "http://a.org/2"]


@pytest.mark.parametrize("layout", FORMATS)
def test_lists_of_every_format_are_read_in_ranges(s3: S3Server, layout, monkeypatch) -> None:
    monkeypatch.setattr(buckets, "RANGE_BYTES", 10_000)
    given = reading(s3.endpoint, Wanted("url", "id"))
    runs = list(read_runs([f"s3://pictures/lists/all.{layout}"], reading=given))
    assert [(e.uri, e.ref) for e in apart(runs)] == [(uri, ref) for ref, uri, _ in ROWS]


def test_a_compressed_list_in_a_bucket_is_decompressed(s3: S3Server) -> None:
    assert uris("s3://pictures/lists/packed.csv.gz", reading(s3.endpoint)) == ["http://a.org/1"]


def test_an_object_replaced_while_it_is_read_is_an_error(s3: S3Server, monkeypatch) -> None:
    monkeypatch.setattr(buckets, "RANGE_BYTES", 10_000)
    lines = "".join(f"http://a.org/{n}\n" for n in range(50_000)).encode()
    s3.put("pictures", "changing.txt", lines)
    images = read_runs(["s3://pictures/changing.txt"], reading=reading(s3.endpoint))
    first = next(images)
    # This request is signed, because the server lets no stranger replace an object.
    obstore.put(reading(s3.endpoint).stores.open("s3", "pictures"), "changing.txt", lines[::-1])
    with pytest.raises(SourceError, match="cannot be read: it was replaced while it was read"):
        list(chain([first], images))


def test_a_list_is_read_in_few_requests(s3: S3Server, caplog) -> None:
    lines = "".join(f"http://a.org/{n}\n" for n in range(100_000)).encode()
    s3.put("pictures", "long.txt", lines)
    caplog.clear()
    with caplog.at_level("INFO", "werkzeug"):
        read = read_runs(["s3://pictures/long.txt"], reading=reading(s3.endpoint))
        assert sum(1 for _ in apart(read)) == 100_000
    gets = [record for record in caplog.records if "GET /pictures/long.txt" in record.message]
    assert len(lines) < buckets.RANGE_BYTES
    assert len(gets) == 1


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("s3://pictures/lists/none.csv", SourceError, "there is no such bucket or object"),
        ("s3://nobody/lists/", SourceError, "there is no such bucket or object"),
        ("s3://a/lists/", SourceError, "s3://a/lists/: no valid bucket name"),
        ("gs://pictures/lists/", SourceError, "gs: is not enabled by RESNEXT_OBJECT_STORES"),
        ("gs://pictures/x.csv", SourceError, "gs: is not enabled by RESNEXT_OBJECT_STORES"),
    ],
)
def test_missing_objects_and_disabled_stores_are_errors(s3: S3Server, source, error, words) -> None:
    with pytest.raises(error, match=words):
        uris(source, reading(s3.endpoint))


def test_a_prefix_without_images_gives_none(s3: S3Server) -> None:
    assert uris("s3://pictures/nothing/", reading(s3.endpoint)) == []


@pytest.fixture
def store() -> Iterator[Store]:
    with serving_answers() as store:
        yield store


@pytest.mark.parametrize("source", ["s3://pictures/zoo/", "s3://pictures/x.csv"])
@pytest.mark.parametrize(
    ("status", "words"), [(403, "refuses access"), (401, "refuses access"), (500, "reached")]
)
def test_the_error_for_a_failing_store_says_what_to_check(
    store: Store, source, status, words
) -> None:
    store.status = status
    store.go_on.set()
    with pytest.raises(UnavailableError, match=words) as it:
        uris(source, reading(store.endpoint))
    assert str(it.value).startswith(f"{source} cannot be ")
    assert "hunter2" not in str(it.value)
