"""Bad input for every operation of the API: the status, the code and part of the message."""

from __future__ import annotations

import gzip
import io
import re
import socket
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, update

from contract.database.clock import db_now
from contract.database.engine import make_engine
from contract.database.tables import jobs
from contract.settings import Settings
from producer.api.keys import create_key
from tests.servers.api import Api, Caller, serve
from tests.wait import WITHIN_S

NO_JOB = "0123456789abcdef"
URIS = ["https://a.org/1"]
LINES = "https://a.org/1\thttps://a.org/2\n"
OPEN = {"/healthz", "/readyz"}


class Row(NamedTuple):
    """A request and its refusal. `JOB` and `ENDED` in a path stand for the jobs of `places`."""

    method: str
    path: str
    sent: dict[str, Any]
    status: int
    code: str
    detail: str
    where: Mapping[str, Any] = MappingProxyType({})
    """The problem's `line` and `column`."""


def text(content: str | bytes, kind: str = "text/plain") -> dict[str, Any]:
    return {"data": content, "headers": {"Content-Type": kind}}


def parquet(**columns: list[Any]) -> dict[str, Any]:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return text(file.getvalue(), "application/vnd.apache.parquet")


def submit(named: str, sent: dict[str, Any], detail: str, **where: Any) -> tuple[str, Row]:
    """A submit with bad images."""
    return named, Row("POST", "/v1/jobs", sent, 422, "bad_source", detail, where)


def option(named: str, wanted: dict[str, Any], detail: str) -> tuple[str, Row]:
    """A submit with a bad option."""
    sent = {"json": {"uris": URIS} | wanted}
    return named, Row("POST", "/v1/jobs", sent, 422, "bad_request", detail)


def of(  # noqa: PLR0917  (the cells of a row)
    named: str, row: str, sent: dict[str, Any], status: int, code: str, detail: str
) -> tuple[str, Row]:
    method, _, path = row.partition(" ")
    return named, Row(method, path, sent, status, code, detail)


def bad(named: str, row: str, detail: str, **sent: Any) -> tuple[str, Row]:
    return of(named, row, sent, 422, "bad_request", detail)


JSON = "application/json"
SUBMITS: dict[str, Row] = dict(
    [
        submit("no images", {"json": {}}, "neither of `uris`"),
        submit("both uris and images", {"json": {"uris": [], "images": []}}, "has both of"),
        submit("an empty list", {"json": {"uris": []}}, "no URI"),
        submit("no scheme", {"json": {"uris": [*URIS, "cat.jpg"]}}, "uris[1]: cat.jpg: no scheme"),
        submit("a local file", {"json": {"uris": ["file:///etc/passwd"]}}, "RESNEXT_FILE_ROOTS"),
        submit("a ref with a NUL", {"json": {"images": [{"uri": URIS[0], "ref": "a\0"}]}}, "NUL"),
        submit("a long ref", {"json": {"images": [{"uri": URIS[0], "ref": "a" * 2_000}]}}, "1024"),
        submit("binary data", text(b"https://a.org/1\n\0\1"), "line 2: binary data", line=2),
        submit("Latin-1", text("https://a.org/é".encode("latin-1")), "not UTF-8", line=1),
        submit("a bad line", text("https://a.org/1\n\nftp://a.org\n"), "body, line 3", line=3),
        submit("nothing at all", text(""), "no URI"),
        submit(
            "no column of URIs", text("id,name\n1,a\n", "text/csv"),
            "Columns: 'id', 'name'", line=1,
        ),
        submit(
            "a bad cell", text("id,url\n1,https://a.org/1\n2,cat.jpg\n", "text/csv"),
            "line 3, column 'url': cat.jpg", line=3, column="url",
        ),
        submit("two columns of one name", text("url,url\na,b\n", "text/csv"), "'url'", line=1),
        submit(
            "a ragged row", text("id,url\n1,https://a.org/1\n2\n", "text/csv"), "line 3", line=3
        ),
        submit(
            "an open quote", text('id,url\n1,"https://a.org/1\n', "text/csv"), "quote", line=2
        ),
        submit(
            "bad JSONL", text('{"url": "https://a.org/1"}\n{"url": \n', "application/x-ndjson"),
            "line 2", line=2,
        ),
        submit("a bad array", text('[{"url": "https://a.org/1"}, 5'), "row 2", line=2),
        submit(
            "a broken archive", text(gzip.compress(b"https://a.org/1\n")[:-9], "application/gzip"),
            "is a gzip file that ends too early",
        ),
        submit("not Parquet", text(b"PAR1 and more", "application/vnd.apache.parquet"), "Parquet"),
        submit("a column of numbers", parquet(url=[1, 2]), "of type int64", column="url"),
        submit("a bad row", parquet(url=["https://a.org/1", "x"]), "row 2", line=2, column="url"),
        option("an unknown field", {"nmae": "x"}, "nmae"),
        option("a value of another type", {"uris": [1]}, "uris.0"),
        option("a priority that is too high", {"priority": 9999}, "priority"),
        option("a priority of true", {"priority": True}, "priority"),
        option("a name with a line break", {"name": "a\nb"}, "printable"),
        option("a name that is too long", {"name": "a" * 201}, "printable"),
        option("a negative time limit", {"expires_s": -1}, "expires_s"),
        option("a time limit that is too long", {"expires_s": 1e300}, "at most 3650 days"),
        option("an unknown precision", {"precision": "fp8"}, "precision"),
        option("a model with a NUL", {"model": "a\0"}, "model must have"),
        option("an empty model", {"model": ""}, "characters, got ''"),
        option("an unknown model", {"model": "resnet"}, "There is no model 'resnet'"),
        option("unknown weights", {"weights": "timm"}, "no weights 'timm'"),
        option("weights with a NUL", {"model": "m", "weights": "\0"}, "weights must have"),
        option("weights whose name is too long", {"weights": "w" * 1_001}, "1,000 printable"),
        option("a share above 1", {"stop_at_failures": 1.5}, "stop_at_failures"),
        option("an unknown on_invalid", {"on_invalid": "drop"}, "on_invalid"),
        option("a sample of 0", {"sample": 0}, "sample"),
        option("a sample that is too large", {"sample": 10**7}, "got 10000000"),
        option("a URL that is not HTTP", {"notify": "ftp://a.org"}, "got 'ftp://a.org'"),
        option("a URL with a password", {"notify": "https://a:b@c.org"}, "password"),
        option("a tag with a bad key", {"tags": {"a b": "1"}}, "got 'a b'"),
        option("a tag with a bad value", {"tags": {"a": "1\n"}}, "tag a must have"),
        option("too many tags", {"tags": {f"t{n}": "1" for n in range(33)}}, "got 33"),
        bad("not JSON", "POST /v1/jobs", "not valid JSON", **text("{", JSON)),
        bad("JSON that is not an object", "POST /v1/jobs", "the body", **text("[]", JSON)),
        bad("an unknown option", "POST /v1/jobs?nmae=x", "query.nmae", **text(LINES)),
        bad("NaN", "POST /v1/jobs?expires_s=nan", "expires_s", **text(LINES)),
        bad("a tag without a value", "POST /v1/jobs?tag=a", "Write key=value", **text(LINES)),
        bad("a tag twice", "POST /v1/jobs?tag=a=1&tag=a=2", "given twice", **text(LINES)),
        bad(
            "a key that is too long", "POST /v1/jobs", "idempotency-key",
            json={"uris": URIS}, headers={"Idempotency-Key": "k" * 201},
        ),
        bad(
            "a key that is not printable", "POST /v1/jobs", "printable",
            json={"uris": URIS}, headers={"Idempotency-Key": "a\xa0b"},
        ),
        of(
            "a picture as a list", "POST /v1/jobs", text(b"\xff\xd8", "image/jpeg"), 415,
            "unsupported_type", "image/jpeg",
        ),
        of(
            "a body that is too large", "POST /v1/jobs", text(b"https://a.org/1\n" * 70_000), 413,
            "too_large", "the limit is 1,000,000",
        ),
        of(
            "a key used with other images", "POST /v1/jobs",
            {"json": {"uris": ["https://a.org/9"]}, "headers": {"Idempotency-Key": "used"}}, 422,
            "key_conflict", "used",
        ),
    ]
)  # fmt: skip
JOBS: dict[str, Row] = dict(
    [
        bad("an unknown state", "GET /v1/jobs?state=done", "state"),
        bad("not a time", "GET /v1/jobs?since=soon", "expected a time like 2026-"),
        bad("a time as a number", "GET /v1/jobs?since=0.5", "expected a time like 2026-"),
        bad(
            "a time without a time zone", "GET /v1/jobs?since=2026-11-29T12:00:00",
            "expected a time like 2026-",
        ),
        bad("a day that does not exist", "GET /v1/jobs?since=2026-02-30T12:00:00Z", "since"),
        bad("a time before all", "GET /v1/jobs?since=0001-01-01T00:00:00%2B14:00", "out of range"),
        bad("a page of 0 jobs", "GET /v1/jobs?limit=0", "limit"),
        bad("a page that is too long", "GET /v1/jobs?limit=9999", "limit"),
        bad("not a cursor", "GET /v1/jobs?cursor=abc", "not a cursor"),
        bad("a cursor that is too large", f"GET /v1/jobs?cursor=c{'9' * 19}", "not a cursor"),
        bad("an unknown filter", "GET /v1/jobs?stat=running", "query.stat: unknown parameter"),
        of("the start of an id", "GET /v1/jobs/0123", {}, 404, "unknown_job", "'0123'"),
        of("a path as an id", "GET /v1/jobs/..%2f..", {}, 404, "not_found", "Not Found"),
        of("an id with a NUL", "GET /v1/jobs/a%00", {}, 404, "unknown_job", "\\x00"),
        bad("a wait that is too long", f"GET /v1/jobs/{NO_JOB}?wait_s=1e9", "wait_s"),
        bad("a wait of NaN", "GET /v1/jobs/JOB?wait_s=nan", "wait_s"),
        bad("a change of the state", "PATCH /v1/jobs/JOB", "state", json={"state": "completed"}),
        bad("a priority in words", "PATCH /v1/jobs/JOB", "priority", json={"priority": "high"}),
        bad("a number as text", "PATCH /v1/jobs/JOB", "priority", json={"priority": "5"}),
        bad("a boolean as a number", "PATCH /v1/jobs/JOB", "priority", json={"priority": True}),
        bad("a new name with a NUL", "PATCH /v1/jobs/JOB", "printable", json={"name": "a\0"}),
        bad("a new tag with a NUL", "PATCH /v1/jobs/JOB", "A tag", json={"tags": {"a\0": None}}),
        bad("a change without a body", "PATCH /v1/jobs/JOB", "body"),
        bad("a change that is not JSON", "PATCH /v1/jobs/JOB", "JSON", **text("{", JSON)),
        bad("a Latin-1 change", "PATCH /v1/jobs/JOB", "UTF-8", **text(b'{"name": "\xe9"}', JSON)),
        bad("an unknown code", "POST /v1/jobs/JOB/retry", "http_404", json={"errors": ["http404"]}),
        bad("errors that are not a list", "POST /v1/jobs/JOB/retry", "errors", json={"errors": 5}),
        bad("an unknown kind of results", "GET /v1/jobs/JOB/results?only=done", "only"),
        bad("a score above 1", "GET /v1/jobs/JOB/results?min_score=2", "min_score"),
        bad("a score of NaN", "GET /v1/jobs/JOB/results?min_score=nan", "min_score"),
        bad("a page of 0 results", "GET /v1/jobs/JOB/results?limit=0", "limit"),
        bad("an error code with a NUL", "GET /v1/jobs/JOB/results?error=a%00", "no error code"),
        bad(
            "opposite filters", "GET /v1/jobs/JOB/results?only=failed&min_score=0",
            "`min_score` keeps",
        ),
        bad("not a cursor of results", "GET /v1/jobs/JOB/results?cursor=%3F", "not a cursor"),
        bad("a mistyped filter of results", "GET /v1/jobs/JOB/results?lable=a", "path takes only,"),
        bad(
            "a limit on a stream", "GET /v1/jobs/JOB/results?limit=5", "pages of JSON",
            headers={"Accept": "text/csv"},
        ),
        of(
            "results as a picture", "GET /v1/jobs/JOB/results",
            {"headers": {"Accept": "image/png"}}, 406, "not_acceptable", "application/x-ndjson",
        ),
        bad("a page of 0 thumbnails", "GET /v1/jobs/JOB/thumbnails?limit=0", "limit"),
        bad("an unknown kind of thumbnails", "GET /v1/jobs/JOB/thumbnails?only=done", "only"),
        bad("a thumbnail before the first", "GET /v1/jobs/JOB/thumbnails/-1", "position"),
        bad("a thumbnail after the last", f"GET /v1/jobs/JOB/thumbnails/{2**63}", "position"),
        bad("a page of 0 classes", "GET /v1/jobs/JOB/classes?limit=0", "limit"),
        bad("too many errors", "GET /v1/jobs/JOB/errors?limit=10001", "limit"),
        of("cancel an ended job", "POST /v1/jobs/ENDED/cancel", {}, 409, "job_state", "completed"),
        of("pause an ended job", "POST /v1/jobs/ENDED/pause", {}, 409, "job_state", "completed"),
        of("resume an ended job", "POST /v1/jobs/ENDED/resume", {}, 409, "job_state", "completed"),
        of("uploads that are off", "POST /v1/images", {}, 404, "uploads_off", "RESNEXT_UPLOADS"),
        of("no such path", "GET /v1/pictures", {}, 404, "not_found", "Not Found"),
        of("no such method", "PUT /v1/jobs", {}, 405, "method_not_allowed", "Method"),
    ]
)  # fmt: skip
ROWS = SUBMITS | JOBS


@pytest.fixture(scope="module")
def engine(_migrated_sqlite: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("refusals") / "resnext.db"
    path.write_bytes(_migrated_sqlite)
    engine = make_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def api(engine: Engine) -> Iterator[Api]:
    """One server for all tests, since none of their requests changes anything."""
    limits = {"api_body_bytes": 1_000_000, "api_requests_per_s": 100_000}
    yield from serve(engine, Settings(database_url=str(engine.url), **limits))


@pytest.fixture(scope="module")
def places(api: Api, engine: Engine) -> dict[str, str]:
    """The ids of a running job (`JOB`) and an ended one (`ENDED`)."""
    made = {}
    for name, key in (("JOB", "used"), ("ENDED", "another")):
        headers = {"Idempotency-Key": key}
        answer = api.submitter.post("/v1/jobs", json={"uris": URIS}, headers=headers)
        made[name] = answer.json()["id"]
    with engine.begin() as connection:
        ended = jobs.c.id == made["ENDED"]
        values = {"state": "completed", "finished_at": db_now()}
        connection.execute(update(jobs).where(ended).values(values))
    return made


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_each_refusal_says_why(api: Api, places: dict[str, str], row: Row) -> None:
    """It is problem+json. Nothing is submitted, and no other job is named."""
    path = row.path
    for name, job in places.items():
        path = path.replace(f"/{name}", f"/{job}")
    before = api.reader.get("/v1/jobs").json()
    answer = api.submitter(row.method, path, **row.sent)
    told = answer.json()
    assert (answer.status_code, told["status"], told["code"]) == (row.status, *row[3:5]), told
    assert row.detail in told["detail"]
    assert " --" not in told["detail"]  # the API must not name a command's options
    assert {name: told[name] for name in ("line", "column") if name in told} == row.where
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if row.code != "key_conflict":  # it names the caller's own job
        assert not any(job in answer.text for job in places.values() if job not in path)
    assert api.reader.get("/v1/jobs").json()["jobs"] == before["jobs"]


def operations(api: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for template, methods in api.reader.get("/openapi.json").json()["paths"].items():
        for method, told in methods.items():
            yield method.upper(), template, told


def test_every_operation_is_in_the_table_and_declares_its_refusals(api: Api) -> None:
    seen = set()
    for method, template, told in operations(api):
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", template))
        for row in ROWS.values():
            if row.method == method and pattern.fullmatch(row.path.partition("?")[0]):
                seen.add((method, template))
                if row.code != "not_found":
                    assert str(row.status) in told["responses"], (method, template, row.status)
    without = {(method, path) for method, path, told in operations(api) if not takes(told)}
    assert {(method, path) for method, path, _ in operations(api)} - seen <= without


def path_of(template: str, job: str) -> str:
    return template.replace("{job_id}", job).replace("{position}", "0")


def takes(told: dict[str, Any]) -> bool:
    """Whether the operation takes any input besides a job's id, which later tests cover."""
    others = [one for one in told.get("parameters", ()) if one["in"] == "query"]
    return bool(others) or "requestBody" in told


def test_every_operation_checks_the_scope(api: Api, engine: Engine, places: dict[str, str]) -> None:
    blind = Caller(api.url, create_key(engine, "blind", ["submit"], "another"))
    for method, template, _ in operations(api):
        if template in OPEN:
            continue
        path = path_of(template, places["JOB"])
        answer = api.stranger(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "no_key"), path
        if (method, template) == ("GET", "/v1/jobs"):
            continue  # a submit key sees its owner's jobs
        wrong = blind if method == "GET" else api.reader
        answer = wrong(method, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope"), path


def test_every_operation_of_a_job_refuses_an_unknown_job(api: Api) -> None:
    for method, template, told in operations(api):
        if "{job_id}" not in template:
            continue
        sent = {"json": {}} if "requestBody" in told else {}
        answer = api.submitter(method, path_of(template, NO_JOB), **sent)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job"), template
        assert "404" in told["responses"]


def test_every_operation_refuses_an_unknown_parameter(api: Api) -> None:
    """It does so before it does anything or reads a body."""
    for method, template, _ in operations(api):
        path = path_of(template, NO_JOB)
        answer = api.submitter(method, f"{path}?no_such=1")
        assert answer.status_code == 422, path
        assert answer.json()["detail"].startswith("query.no_such: unknown parameter."), path


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/jobs", "POST, GET"), ("/v1/jobs/0123", "GET, PATCH, DELETE"), ("/docs", "GET")],
)
def test_a_405_names_the_allowed_methods(api: Api, path: str, allowed: str) -> None:
    answer = api.submitter("PUT", path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


def test_a_filter_that_no_job_can_match_finds_none(api: Api, places: dict[str, str]) -> None:
    for query in ("name=a%00", "tag=a%3D%00", "tag=%0A"):
        assert api.reader.get(f"/v1/jobs?{query}").json() == {"jobs": [], "next": None}


UNWANTED = [
    ("/v1/jobs", "stranger", 401),
    ("/v1/jobs", "reader", 403),
    ("/v1/jobs?no_such=1", "submitter", 422),
    ("/v1/nothing", "submitter", 404),
    ("/v1/images", "submitter", 404),
    ("/healthz", "submitter", 405),
]


@pytest.mark.parametrize(("path", "who", "status"), UNWANTED)
def test_a_client_sees_a_refusal_while_it_sends(api: Api, path: str, who: str, status: int) -> None:
    """The server needs none of the body, and the client is still sending it."""
    parts = (b"https://a.org/1\n" * 4096 for _ in range(64))  # 4 MB
    answer = getattr(api, who)("POST", path, data=parts, headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert next(parts, None) is None, "the client stopped before the end of the body"


@pytest.mark.parametrize(("path", "who", "status"), UNWANTED)
def test_a_refused_client_gets_no_100_continue(api: Api, path: str, who: str, status: int) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), WITHIN_S) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
            "Content-Length: 4000000\r\nExpect: 100-continue\r\n"
            f"Authorization: Bearer {getattr(api, who).key}\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 %d " % status)
