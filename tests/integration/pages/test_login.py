"""Logins to the pages: a key or a link gives a session, and nothing is shown without one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update

from contract.database.engine import reading
from contract.database.tables import sessions
from contract.errors import UsageError
from contract.settings import Settings
from producer.api import server
from producer.api.keys import create_key, revoke_key
from producer.pages import sessions as logins
from producer.pages.sessions import Sessions, link_of, make_link
from tests.servers.api import Api
from tests.servers.visitor import Visitor
from tests.settled import make_job

PAGES = ("/", "/workers", "/jobs/{job}", "/jobs/{job}/images/0", "/jobs/{job}/thumbnails/0",
         "/jobs/{job}/events", "/jobs/{job}/results.csv", "/?part=jobs", "/workers?part=fleet",
         "/jobs/none", "/jobs/{job}?part=details")  # fmt: skip
HEADERS = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy")
RESNEXTQ = Path(sys.executable).with_name("resnextq")


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_shown_without_a_login(stranger: Visitor, engine: Engine, page: str) -> None:
    job = make_job(engine)
    for cookie in ("", "x", "a" * 43, "a" * 5000):
        stranger.session.cookies.set(f"resnextq-{stranger.url.rpartition(':')[2]}", cookie)
        answer = stranger.get(page.format(job=job), allow_redirects=False)
        assert (answer.status_code, answer.text) == (303, "")
        assert answer.headers["Location"].startswith("/login?next=/")


@pytest.mark.parametrize("path", ["/login", "/", "/jobs/none", "/static/none", "/favicon.ico"])
def test_every_answer_has_the_security_headers(
    visitor: Visitor, stranger: Visitor, path: str
) -> None:
    for one in (visitor, stranger):
        answer = one.get(path, allow_redirects=False)
        assert all(answer.headers[name] for name in HEADERS), answer.headers
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "*" not in policy


def test_the_api_is_unchanged(site: Api) -> None:
    answer = site.stranger.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (401, "no_key")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; frame")
    assert site.reader.get("/v1/jobs").ok
    assert site.stranger.get("/healthz").text == "ok\n"


def test_a_session_does_not_work_for_the_api(visitor: Visitor) -> None:
    assert visitor.get("/v1/jobs").status_code == 401


def test_a_key_becomes_a_cookie_that_is_not_the_key(site: Api, stranger: Visitor) -> None:
    answer = stranger.post(
        "/login", data={"key": site.reader.key, "next": "/workers"}, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/workers")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie  # the browser would not return it over plain HTTP
    assert site.reader.key not in cookie
    assert stranger.get("/").status_code == 200
    assert stranger.get("/login", allow_redirects=False).headers["Location"] == "/"


def test_over_tls_the_cookie_is_secure(site: Api, stranger: Visitor) -> None:
    """A proxy on this machine reports the browser's scheme."""
    tls = {"X-Forwarded-Proto": "https", "Origin": stranger.url.replace("http:", "https:")}
    answer = stranger.log_in(site.reader.key, headers=tls, allow_redirects=False)
    assert answer.headers["Set-Cookie"].startswith("__Host-resnextq-")
    assert "Secure" in answer.headers["Set-Cookie"]


def test_sql_has_neither_the_token_nor_the_key(visitor: Visitor, engine: Engine, site: Api) -> None:
    (token,) = visitor.session.cookies.values()
    with reading(engine) as connection:
        row = connection.execute(select(sessions)).one()
    assert row.hash == hashlib.sha256(token.encode()).hexdigest()
    assert token not in repr(row)
    assert site.submitter.key not in repr(row)
    assert row.expires_at > datetime.now(UTC) + timedelta(days=6)


def test_a_logout_ends_the_session_everywhere(visitor: Visitor) -> None:
    (token,) = visitor.session.cookies.values()
    answer = visitor.send("/", "/logout")
    assert answer.url.endswith("/login")
    assert not visitor.session.cookies
    other = Visitor(visitor.url)
    other.session.cookies.set(f"resnextq-{visitor.url.rpartition(':')[2]}", token)
    assert other.get("/", allow_redirects=False).status_code == 303


def test_a_revoked_key_ends_its_sessions(
    engine: Engine, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "KEPT_S", 0.0)
    assert visitor.get("/").status_code == 200
    (token,) = visitor.session.cookies.values()
    revoke_key(engine, "submitter")
    assert Sessions(engine).find(token) is None


def test_a_session_expires(engine: Engine, visitor: Visitor) -> None:
    (token,) = visitor.session.cookies.values()
    with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(sessions).values(expires_at=past))
    assert Sessions(engine).find(token) is None
    make_link(engine, "reader")  # this also deletes expired sessions
    with reading(engine) as connection:
        assert [row.is_link for row in connection.execute(select(sessions))] == [True]


@pytest.mark.parametrize("key", ["", "x", "rnq_00000000_abc", "rnq_ü_x", "a" * 3_000])
def test_an_invalid_key_does_not_log_in(stranger: Visitor, key: str) -> None:
    answer = stranger.log_in(key)
    assert answer.status_code == 401
    assert "This key is unknown" in answer.text
    assert not stranger.session.cookies


def test_a_key_without_the_read_scope_does_not_log_in(engine: Engine, stranger: Visitor) -> None:
    answer = stranger.log_in(create_key(engine, "blind", ["submit"], "ann"))
    assert (answer.status_code, "lacks the scope read" in answer.text) == (403, True)


def test_guessing_keys_is_slowed_down(stranger: Visitor, site: Api) -> None:
    statuses = [stranger.log_in("rnq_00000000_abc").status_code for _ in range(15)]
    assert statuses[:10] == [401] * 10
    assert set(statuses[10:]) == {429}
    assert stranger.log_in(site.reader.key).status_code == 429


def test_a_form_that_is_too_large_is_refused(stranger: Visitor) -> None:
    assert stranger.log_in("a" * 100_000).status_code == 413


@pytest.mark.parametrize(
    "following",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:x", "", "/\t/evil"],
)
def test_a_login_redirects_only_to_our_pages(site: Api, stranger: Visitor, following: str) -> None:
    data = {"key": site.reader.key, "next": following}
    answer = stranger.post("/login", data=data, allow_redirects=False)
    assert answer.headers["Location"] == "/"


# Links that log in once


def test_a_link_logs_in_once(engine: Engine, stranger: Visitor) -> None:
    link = link_of("", make_link(engine, "submitter"))
    for _ in range(2):  # only looking at it, as a preview does, does not use it up
        assert stranger.get(link).status_code == 200
    assert not stranger.session.cookies
    assert stranger.send(link, "/login").url == f"{stranger.url}/"
    assert stranger.session.cookies
    other = Visitor(stranger.url)
    answer = other.send(link, "/login")
    assert answer.status_code == 401
    assert "resnextq login" in answer.text
    assert not other.session.cookies


def test_a_link_is_not_a_session_and_a_session_is_not_a_link(
    engine: Engine, stranger: Visitor, visitor: Visitor
) -> None:
    token = make_link(engine, "submitter")
    assert Sessions(engine).find(token) is None
    (session,) = visitor.session.cookies.values()
    answer = stranger.post("/login", data={"link": session, "next": "/"})
    assert answer.status_code == 401


def test_a_link_expires(engine: Engine, site: Api, stranger: Visitor) -> None:
    token = make_link(engine, "reader")
    with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(sessions).values(expires_at=past))
    assert stranger.post("/login", data={"link": token}).status_code == 401


def test_a_link_needs_a_valid_key(engine: Engine, site: Api) -> None:
    token = make_link(engine, "reader")
    revoke_key(engine, "reader")
    assert Sessions(engine).find(Sessions(engine).take_link(token) or "") is None
    with pytest.raises(UsageError, match="no key 'reader' in use"):
        make_link(engine, "reader")


def test_the_command_prints_a_link(
    engine: Engine, site: Api, stranger: Visitor, settings: Settings
) -> None:
    settings.home.mkdir(exist_ok=True)
    server.write_url(settings, site.url)
    environment = {
        "RESNEXT_HOME": str(settings.home),
        "RESNEXT_DATABASE_URL": settings.database(),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [RESNEXTQ, "login", "--key", "submitter"],
        capture_output=True, text=True, timeout=300, check=True, env=environment,
    )  # fmt: skip
    link = done.stdout.strip()
    assert link.startswith(f"{site.url}/login?link=")
    assert stranger.send(link.removeprefix(site.url), "/login").url == f"{site.url}/"


# Forms of other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout", "/jobs", "/jobs/{job}/cancel"])
def test_another_sites_form_does_nothing(
    site: Api, visitor: Visitor, engine: Engine, path: str, headers: dict[str, str]
) -> None:
    job = make_job(engine)
    data = {"key": site.submitter.key, "list": "https://a.org/1"}
    answer = visitor.post(path.format(job=job), data=data, headers=headers, allow_redirects=False)
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers
    assert len(site.reader.get("/v1/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("token", ["", "x", "ü", "0" * 64])
def test_a_form_needs_the_token_of_its_session(visitor: Visitor, site: Api, token: str) -> None:
    answer = visitor.post("/jobs", data={"list": "https://a.org/1", "token": token})
    assert (answer.status_code, "another login" in answer.text) == (403, True)
    assert site.reader.get("/v1/jobs").json()["jobs"] == []


def test_a_form_of_an_ended_session_is_refused(visitor: Visitor, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(delete(sessions))
    visitor.session.cookies.clear()
    answer = visitor.post("/jobs", data={"list": "https://a.org/1"})
    assert (answer.status_code, "not logged in" in answer.text) == (401, True)


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry", "edit"])
def test_a_read_key_changes_nothing(reader: Visitor, engine: Engine, action: str) -> None:
    job = make_job(engine)
    answer = reader.post(f"/jobs/{job}/{action}", data={})
    assert (answer.status_code, "lacks the scope submit" in answer.text) == (403, True)
    assert '<form method="post" action="/jobs' not in reader.get(f"/jobs/{job}").text
    assert '<form method="post" action="/jobs' not in reader.get("/").text
