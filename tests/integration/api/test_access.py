"""Access to the API: keys, scopes, rates, and the largest body."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import api_keys, jobs
from contract.errors import UsageError
from contract.settings import Settings
from producer.api import keys
from producer.api.keys import Keys, create_key, list_keys, revoke_key
from tests.servers.api import Api, Caller, serve

PATHS = (
    "/v1/jobs",
    "/v1/models",
    "/v1/workers",
    "/openapi.json",
    "/",
    "/docs",
    "/metrics",
    "/nothing",
)


@pytest.fixture
def slow_api(engine: Engine, settings: Settings) -> Iterator[Api]:
    narrow = {"api_requests_per_s": 3, "api_body_bytes": 1_000_000}
    yield from serve(engine, settings.model_copy(update=narrow))


SENT = ("", "Bearer", "Bearer x", "Bearer rnq_00000000_abc", "Basic YTpi", "bearer rnq__")


@pytest.mark.parametrize("path", PATHS)
def test_without_a_key_nothing_is_shown(api: Api, path: str) -> None:
    for sent in SENT:
        answer = api.stranger.get(path, headers={"Authorization": sent} if sent else {})
        assert (answer.status_code, answer.json()["code"]) == (401, "no_key"), sent
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_needs_no_key(api: Api) -> None:
    assert [api.stranger.get(path).text for path in ("/healthz", "/readyz")] == ["ok\n"] * 2


def test_a_read_key_cannot_submit(api: Api) -> None:
    assert api.reader.get("/v1/jobs").ok
    answer = api.reader.post("/v1/jobs", json={"uris": ["https://a.org/1"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope")
    assert "this request needs submit" in answer.json()["detail"]


OF_A_JOB = ("", "/results", "/classes", "/errors", "/events")


def submit(caller: Caller) -> str:
    answer = caller.post("/v1/jobs", json={"uris": ["https://a.org/1"]})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_a_submit_key_follows_its_owners_jobs(api: Api, engine: Engine) -> None:
    mine = Caller(api.url, create_key(engine, "mine", ["submit"], "carl"))
    job = submit(mine)
    with engine.begin() as connection:
        ended = {"state": "completed", "failed": 1, "finished_at": db_now()}
        connection.execute(update(jobs).values(**ended))
    for below in OF_A_JOB:
        assert mine.get(f"/v1/jobs/{job}{below}").status_code == 200, below
    sibling = Caller(api.url, create_key(engine, "sibling", ["submit"], "carl"))
    assert sibling.get(f"/v1/jobs/{job}").ok
    assert [one["id"] for one in sibling.get("/v1/jobs").json()["jobs"]] == [job]


def test_a_submit_key_reads_no_other_owners_jobs(api: Api, engine: Engine) -> None:
    blind = Caller(api.url, create_key(engine, "blind", ["submit"], "carl"))
    of_ann, own = submit(api.submitter), submit(blind)
    for below in OF_A_JOB:
        answer = blind.get(f"/v1/jobs/{of_ann}{below}")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope"), below
        assert "this request needs read" in answer.json()["detail"]
    for path in ("/v1/models", "/v1/workers", "/openapi.json", "/v1/jobs/", "/v1/jobsx"):
        assert blind.get(path).status_code == 403, path
    assert blind.get("/v1/jobs/0123456789abcdef").status_code == 404
    assert [one["id"] for one in blind.get("/v1/jobs").json()["jobs"]] == [own]
    listed = blind.get("/v1/jobs", params={"limit": 1, "name": ""}).json()
    assert ([one["id"] for one in listed["jobs"]], listed["next"]) == ([own], None)
    assert len(api.reader.get("/v1/jobs").json()["jobs"]) == 2


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


def test_a_looked_up_key_is_cached(engine: Engine) -> None:
    known = Keys(engine)
    text = create_key(engine, "a", ["read"], "ann")
    assert known.known(text) == (False, None)
    assert known.find(text) == known.known(text)[1] is not None
    assert known.find("rnq_x_y") is None
    assert known.known("rnq_x_y") == (True, None)


def test_only_the_digest_of_a_key_is_stored(engine: Engine) -> None:
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
        ("b", ["write"], "one of read, submit, got 'write'"),
        ("b", [], "one of read, submit, got none"),
        ("taken", ["read"], "already"),
    ],
)
def test_an_invalid_key_is_refused(
    engine: Engine, name: str, scopes: list[str], message: str
) -> None:
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


def test_guessing_keys_is_slowed_down(api: Api) -> None:
    wrong = {"Authorization": "Bearer rnq_00000000_abc"}
    statuses = [api.stranger.get("/v1/jobs", headers=wrong).status_code for _ in range(40)]
    assert set(statuses) == {401, 429}


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(slow_api: Api, *, declared: bool) -> None:
    """The client is still sending when the server refuses, and it still gets the answer."""
    parts = [b"https://a.org/1\n" * 4096] * 64  # 4 MB
    body = b"".join(parts) if declared else iter(parts)
    headers = {"Content-Type": "text/plain"}
    answer = slow_api.submitter.post("/v1/jobs", data=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1,000,000" in answer.json()["detail"]
    assert slow_api.submitter.get("/v1/jobs").json()["jobs"] == []


def test_a_client_that_disconnects_in_mid_request_submits_nothing(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 1000\r\nAuthorization: Bearer %b\r\n\r\nhttps://a.org/1\n"
            % (api.submitter.key or "").encode()
        )
    assert api.submitter.get("/v1/jobs").json()["jobs"] == []
