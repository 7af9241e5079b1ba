"""Images in object stores: fetches, their error codes, and signed requests."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from contract import objects
from contract.errors import UsageError
from contract.failure import Failure
from contract.settings import Settings
from tests.fetching import Fetching
from tests.pictures.demo import GOOD
from tests.pools import Pool
from tests.servers.objects import S3Server, Store, serving_answers, serving_s3
from worker.loader.fetch.failures import NO_DESCRIPTORS
from worker.loader.fetch.object_store import credential_files, environment

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with serving_s3() as server:
        server.make_bucket("pictures")
        server.put("pictures", "cats/chelsea.jpg", GOOD.read_bytes())
        server.put("pictures", "a b/ü%20#?+.jpg", b"odd")
        server.put("pictures", "empty", b"")
        server.put("pictures", "large", bytes(1001))
        yield server


@pytest.fixture
def store() -> Iterator[Store]:
    with serving_answers() as store:
        yield store


@pytest.fixture(autouse=True)
def _keys(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def fetch(uri: str, endpoint: str | None, **limits: Any) -> bytes | Failure:
    limits = {"object_stores": ("s3", "gs")} | limits
    limits |= {"s3_endpoint": endpoint, "gcs_endpoint": endpoint}
    came = Fetching(**limits).fetch(uri)
    return came if isinstance(came, Failure) else came.body


@pytest.mark.parametrize(
    ("uri", "body"),
    [
        ("s3://pictures/cats/chelsea.jpg", GOOD.read_bytes()),
        ("S3://pictures/a%20b/ü%2520%23%3F+.jpg", b"odd"),
        ("s3://pictures/empty", b""),
    ],
)
def test_an_object_is_fetched_by_its_key(s3: S3Server, uri: str, body: bytes) -> None:
    assert fetch(uri, s3.endpoint) == body


def test_an_object_is_classified_through_a_loader(s3: S3Server) -> None:
    """The loader gets the credentials and may reach the private address of the store."""
    pool = Pool(Settings(loaders=1, object_stores="s3", s3_endpoint=s3.endpoint))
    pool.inner.start()
    try:
        for key in ("cats/chelsea.jpg", "no.jpg"):
            pool.inner.load(f"s3://pictures/{key}", pool._note(key))
        answers = dict(pool.answers(2))
    finally:
        pool.inner.close()
    assert answers == {
        "cats/chelsea.jpg": None,
        "no.jpg": Failure("http_404", "Not Found, says the object store"),
    }


@pytest.mark.parametrize("uri", ["s3://pictures/no.jpg", "s3://nobody/a.jpg"])
def test_a_missing_object_or_bucket_is_a_404(s3: S3Server, uri: str) -> None:
    assert fetch(uri, s3.endpoint) == Failure("http_404", "Not Found, says the object store")


@pytest.mark.parametrize(
    ("status", "retried"),
    [(400, False), (401, False), (403, False), (404, False), (429, True), (500, True), (503, True)],
)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_each_error_status_has_its_code(
    store: Store, scheme: str, status: int, *, retried: bool
) -> None:
    store.status = status
    failure = fetch(f"{scheme}://pictures/a.jpg", store.endpoint, object_store_access="anonymous")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retried) == (f"http_{status}", retried)
    assert "127.0.0.1" not in failure.detail
    assert len(store.paths) == 1, "the fetcher itself does not retry"


def test_objects_in_google_cloud_storage_are_fetched(store: Store) -> None:
    store.pieces, store.length = [b"body"], 4
    store.go_on.set()
    assert fetch("gs://pictures/a.jpg", store.endpoint, object_store_access="anonymous") == b"body"
    assert store.paths == ["/pictures/a.jpg"]


def test_an_object_that_is_too_large_is_not_read(store: Store) -> None:
    """The server never sends the whole object, so reading it would hang."""
    store.length, store.pieces = 1001, [bytes(10)]
    failure = fetch("s3://pictures/large", store.endpoint, max_image_bytes=1000)
    assert failure == Failure("too_large", "1001 bytes; at most 1000 are permitted")


def test_an_object_of_exactly_the_limit_is_accepted(s3: S3Server) -> None:
    assert fetch("s3://pictures/large", s3.endpoint, max_image_bytes=1001) == bytes(1001)


@pytest.mark.parametrize("pieces", [[b""], [b"x"] * 5])
def test_a_slow_or_hanging_store_ends_at_the_deadline(store: Store, pieces) -> None:
    store.length, store.pieces = 100, pieces
    failure = fetch("s3://pictures/a.jpg", store.endpoint, fetch_deadline_s=0.3)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retried) == ("timeout", True)


def test_an_incomplete_body_is_a_connection_error(store: Store) -> None:
    store.length, store.pieces = 100, [b"x"]
    store.go_on.set()
    failure = fetch("s3://pictures/a.jpg", store.endpoint)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retried) == ("connect", True)


def test_an_unreachable_store_is_a_connection_error() -> None:
    failure = fetch("s3://pictures/a.jpg", "http://127.0.0.1:9")
    assert isinstance(failure, Failure)
    assert failure.code == "connect"
    assert "127.0.0.1" not in failure.detail


def test_a_loader_without_free_descriptors_retries_an_object(store: Store) -> None:
    store.status = 404
    fetcher = Fetching(object_stores=("s3",), s3_endpoint=store.endpoint)
    assert fetcher.failure("s3://pictures/a.jpg").code == "http_404"
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Descriptors 0 to 2 are open, and the server's `poll` accepts at most as many as the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, usual[1]))
    try:
        failure = fetcher.failure("s3://others/a.jpg")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert failure == NO_DESCRIPTORS


@pytest.mark.parametrize(("access", "signed"), [("credentials", True), ("anonymous", False)])
def test_requests_are_signed_unless_access_is_anonymous(store: Store, access, signed) -> None:
    store.status = 404
    fetch("s3://pictures/a.jpg", store.endpoint, object_store_access=access)
    assert store.authorized == [signed]


@pytest.mark.parametrize("uri", ["s3://pictures/a.jpg", "gs://pictures/a.jpg"])
def test_a_store_that_is_not_enabled_gets_no_request(store: Store, uri: str) -> None:
    failure = fetch(uri, store.endpoint, object_stores=())
    assert isinstance(failure, Failure)
    assert failure.code == "blocked_scheme"
    assert "RESNEXT_OBJECT_STORES" in failure.detail
    assert store.paths == []


def test_loaders_get_the_variables_of_the_enabled_stores(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert environment(Settings()) == {}
    assert environment(Settings(object_stores="s3", object_store_access="anonymous")) == {}
    s3 = environment(Settings(object_stores="s3"))
    assert s3 == KEYS | {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")}
    assert credential_files(s3) == [tmp_path]
    google = environment(Settings(object_stores="gs"))
    assert google == {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
    assert credential_files(google) == [tmp_path / "key.json"]


def test_the_error_for_a_missing_store_library_names_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(objects, "find_spec", lambda _: None)
    assert environment(Settings()) == {}
    with pytest.raises(UsageError, match=r"pip install '\.\[gcs\]'"):
        environment(Settings(object_stores="gs"))
