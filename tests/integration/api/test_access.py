"""Who is let in: keys, scopes, rates; and what is too large."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import api_keys
from contract.errors import UsageError
from contract.settings import Settings
from producer.api import keys
from producer.api.keys import Keys, create_key, list_keys, revoke_key
from tests.servers.api import Api, Caller, serve

PATHS = ("/v1/jobs", "/v1/models", "/v1/workers", "/openapi.json", "/", "/docs", "/nothing")


@pytest.fixture
def slow_api(engine: Engine, settings: Settings) -> Iterator[Api]:
    narrow = {"api_requests_per_s": 3, "api_body_bytes": 1_000_000}
    yield from serve(engine, settings.model_copy(update=narrow))


SENT = ("", "Bearer", "Bearer x", "Bearer rnq_00000000_abc", "Basic YTpi", "bearer rnq__")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_to_who_has_no_key(api: Api, path: str) -> None:
    for sent in SENT:
        answer = api.stranger.get(path, headers={"Authorization": sent} if sent else {})
        assert (answer.status_code, answer.json()["code"]) == (401, "no_key"), sent
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_needs_no_key(api: Api) -> None:
    assert [api.stranger.get(path).text for path in ("/healthz", "/readyz")] == ["ok\n"] * 2


def test_a_key_that_may_read_changes_nothing(api: Api) -> None:
    assert api.reader.get("/v1/jobs").ok
    answer = api.reader.post("/v1/jobs", json={"uris": ["https://a.org/1"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope")
    assert "this needs submit" in answer.json()["detail"]


def test_a_key_that_may_only_submit_reads_nothing(api: Api, engine: Engine) -> None:
    blind = Caller(api.url, create_key(engine, "blind", ["submit"], "ann"))
    assert blind.post("/v1/jobs", json={"uris": ["https://a.org/1"]}).status_code == 201
    assert blind.get("/v1/jobs").status_code == 403


def test_a_revoked_key_is_refused(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(keys, "KEPT_S", 0.0)
    known = Keys(engine)
    text = create_key(engine, "a", ["read"], "ann")
    assert known.find(text) is not None
    revoked = revoke_key(engine, "a")
    assert known.find(text) is None
    assert revoke_key(engine, revoked.id).revoked_at == revoked.revoked_at
    with reading(engine) as connection:
        (listed,) = list_keys(connection)
    assert (listed.name, listed.revoked_at) == ("a", revoked.revoked_at)
    assert create_key(engine, "a", ["read"], "ann") != text  # the name is free again


def test_a_key_is_remembered_for_some_seconds_alone(engine: Engine) -> None:
    known = Keys(engine)
    text = create_key(engine, "a", ["read"], "ann")
    assert known.known(text) == (False, None)
    assert known.find(text) == known.known(text)[1] is not None
    assert known.find("rnq_x_y") is None
    assert known.known("rnq_x_y") == (True, None)


def test_of_a_key_only_a_digest_is_stored(engine: Engine) -> None:
    text = create_key(engine, "a", ["submit", "read", "read"], "ann")
    with reading(engine) as connection:
        row = connection.execute(select(api_keys)).one()
    assert row.hash == hashlib.sha256(text.encode()).hexdigest()
    assert (row.scopes, row.owner, row.last_used_at) == (["read", "submit"], "ann", None)
    assert text.split("_", 2)[2] not in repr(row)
    assert Keys(engine).find(text[:-1]) is None
    assert Keys(engine).find(text) is not None
    with reading(engine) as connection:
        assert connection.execute(select(api_keys.c.last_used_at)).scalar_one() is not None


@pytest.mark.parametrize(
    ("name", "scopes", "message"),
    [
        ("", ["read"], "1 to 100 printable"),
        ("a\nb", ["read"], "1 to 100 printable"),
        ("b" * 101, ["read"], "1 to 100 printable"),
        ("b", ["write"], "'write'; it is one of: read, submit"),
        ("b", [], "none; it is one of"),
        ("taken", ["read"], "already"),
    ],
)
def test_a_key_that_cannot_be(engine: Engine, name: str, scopes: list[str], message: str) -> None:
    create_key(engine, "taken", ["read"], "ann")
    with pytest.raises(UsageError, match=message):
        create_key(engine, name, scopes, "ann")


def test_a_key_has_its_own_rate(slow_api: Api) -> None:
    answers = [slow_api.reader.get("/v1/jobs") for _ in range(12)]
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    (refused, *_) = (answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["code"], refused.headers["Retry-After"]) == ("too_many_requests", "1")
    assert slow_api.submitter.get("/v1/jobs").ok


def test_who_tries_keys_is_slowed_down(api: Api) -> None:
    wrong = {"Authorization": "Bearer rnq_00000000_abc"}
    statuses = [api.stranger.get("/v1/jobs", headers=wrong).status_code for _ in range(40)]
    assert set(statuses) == {401, 429}


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_told_so(slow_api: Api, *, declared: bool) -> None:
    """The client still sends when it is refused, and sees the answer all the same."""
    parts = [b"https://a.org/1\n" * 4096] * 64  # 4 MB
    body = b"".join(parts) if declared else iter(parts)
    headers = {"Content-Type": "text/plain"}
    answer = slow_api.submitter.post("/v1/jobs", data=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1,000,000" in answer.json()["detail"]
    assert slow_api.submitter.get("/v1/jobs").json()["jobs"] == []


def test_a_client_that_leaves_in_the_middle_submits_nothing(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 1000\r\nAuthorization: Bearer %b\r\n\r\nhttps://a.org/1\n"
            % (api.submitter.key or "").encode()
        )
    assert api.submitter.get("/v1/jobs").json()["jobs"] == []
