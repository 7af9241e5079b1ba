"""The client against a real server, and against servers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import resnextq
from resnextq import Client, Job
from sqlalchemy import Engine, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, jobs, results
from producer.api.keys import create_key
from tests.servers.api import Api

URIS = [f"https://a.org/{n}" for n in range(3)]


@pytest.fixture
def client(api: Api) -> Client:
    return Client(api.url, api.submitter.key)


def images_of(engine: Engine) -> list[tuple[str, str | None]]:
    with reading(engine) as connection:
        rows = connection.execute(select(chunk_uris).order_by(chunk_uris.c.chunk)).all()
    found: list[tuple[str, str | None]] = []
    for row in rows:
        found += zip(row.uris, row.refs or [None] * len(row.uris), strict=True)
    return found


def finish(engine: Engine, job: Job, images: int) -> None:
    """Let all of the job's images fail, with two error codes in turn."""
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job.id))
        rows = [
            {
                "job_number": number, "position": n, "uri": f"https://a.org/{n}", "attempts": 1,
                "settled_at": db_now(), "error_code": ("timeout", "http_404")[n % 2],
                "error_detail": "why",
            }
            for n in range(images)
        ]  # fmt: skip
        for row in rows:
            connection.execute(insert(results).values(row))
        ended = {"failed": images, "state": "completed", "finished_at": db_now()}
        connection.execute(update(jobs).where(jobs.c.number == number).values(**ended))


class Table:
    """A table with the interface of pandas and polars."""

    def __init__(self, **columns: list[Any]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> list[Any]:
        return self._columns[name]


@pytest.mark.parametrize("kind", ["uris", "pairs", "generator", "file", "table"])
def test_each_kind_of_input_is_submitted(
    client: Client, engine: Engine, tmp_path: Path, kind: str
) -> None:
    ids = [f"id-{n}" for n in range(3)]
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{uri}\t{ref}\n" for uri, ref in zip(URIS, ids, strict=True)))
    options: dict[str, Any] = {"id_column": "my_id"} if kind == "table" else {}
    given = {
        "uris": URIS,
        "pairs": list(zip(URIS, ids, strict=True)),
        "generator": (uri for uri in URIS),
        "file": path,
        "table": Table(url=URIS, my_id=ids),
    }[kind]
    job = client.submit(given, name="three", priority=2, expires_s=60, **options)
    status = job.status()
    assert (status.id, status.name, status.priority, status.total) == (job.id, "three", 2, 3)
    assert status.expires_at is not None
    assert status.expires_at > status.created_at
    has_ids = kind not in {"uris", "generator"}
    assert images_of(engine) == list(zip(URIS, ids if has_ids else [None] * 3, strict=True))


NOTHING: dict[str, tuple[Callable[[], Any], str]] = {
    "a URI instead of a list": (lambda: "https://a.org/1", "is not a file"),
    "no images": (list, "no image"),
    "not a text": (lambda: [1], "Image 0 has the URI 1"),
    "an empty text": (lambda: ["https://a.org/1", " "], "Image 1 has the URI ' '"),
    "two lines": (lambda: ["https://a.org/1\nhttps://a.org/2"], "line break"),
    "half a surrogate pair": (lambda: ["https://a.org/\ud800"], "UTF-8"),
    "no column of URIs": (lambda: Table(a=[], b=[]), "not clear which column"),
}


@pytest.mark.parametrize(("make", "message"), NOTHING.values(), ids=NOTHING)
def test_bad_input_is_refused(client: Client, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(resnextq.Error, match=message):
        client.submit(make())
    assert list(client.jobs()) == []


def test_refusals_of_the_server_have_their_own_errors(client: Client, api: Api) -> None:
    with pytest.raises(resnextq.Refused, match="no scheme") as refused:
        client.submit(["cat.jpg"])
    assert (refused.value.code, refused.value.status) == ("bad_source", 422)
    with pytest.raises(resnextq.NotFound) as unknown:
        client.job("0123456789abcdef").status()
    assert unknown.value.code == "unknown_job"
    with pytest.raises(resnextq.Forbidden, match="needs submit"):
        Client(api.url, api.reader.key).submit(URIS)
    with pytest.raises(resnextq.Forbidden, match="key is unknown"):
        next(Client(api.url, "rnq_00000000_x").jobs())


def test_submitting_twice_with_a_key_makes_one_job(client: Client) -> None:
    first, second = (client.submit(URIS, key="k") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(resnextq.Refused) as other:
        client.submit(URIS[:1], key="k")
    assert other.value.code == "key_conflict"


def test_a_job_from_submit_to_end(client: Client, engine: Engine) -> None:
    job = client.submit(URIS)
    with pytest.raises(resnextq.TimedOut, match="3 of 3 images are left"):
        job.wait(timeout=0.2)
    done = threading.Timer(0.2, finish, (engine, job, 3))
    done.start()
    assert job.wait(timeout=60).failed == 3
    done.join()
    assert [(one.code, one.host, one.images) for one in job.errors()] == [
        ("timeout", "a.org", 2),
        ("http_404", "a.org", 1),
    ]
    assert job.classes() == []
    assert job.retry(["internal"]).images == 0
    assert [one.id for one in client.jobs(state="completed")] == [job.id]
    other = client.submit(URIS)
    assert other.cancel().state == other.cancel().state == "cancelled"
    with pytest.raises(resnextq.Conflict):
        job.cancel()


def test_a_submit_key_follows_its_jobs(api: Api, engine: Engine) -> None:
    own = Client(api.url, create_key(engine, "drop", ["submit"], "carl"))
    job = own.submit(URIS)
    finish(engine, job, 3)
    assert job.wait(timeout=60, progress=False).failed == 3
    assert [one.uri for one in job.results(only="failed")] == URIS
    assert [one.id for one in own.jobs()] == [job.id]


def test_jobs_come_page_by_page(client: Client, monkeypatch) -> None:
    monkeypatch.setattr("resnextq.client.PAGE", 2)
    made = [client.submit(URIS, name=f"n {n}").id for n in range(5)]
    assert [one.id for one in client.jobs(name="n ")] == made[::-1]


# Servers that misbehave


Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[Any]]]:
    """Run a server. Yields its address and the requests it got: method, path, key and body."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            seen.append((self.command, self.path, self.headers.get("Authorization"), body))
            answer(self, len(seen))

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", seen
        running.shutdown()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, shape: Any, **headers: str) -> None:
    body = json.dumps(shape).encode()
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


Use = Callable[[Client, Path], Any]
USES: dict[str, Use] = {
    "status": lambda client, _: client.job("a1").status(),
    "submit": lambda client, _: client.submit(URIS, key="mine"),
    "edit": lambda client, _: client.job("a1").edit(name="pets"),
    "results": lambda client, _: list(client.job("a1").results()),
    "save": lambda client, folder: client.job("a1").to_parquet(folder / "results.parquet"),
}
"""Every kind of request: small, with a list, with a body, page by page, as a stream."""


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Shorten every timeout to half a second."""
    for method in (Client.submit, Job.save):
        monkeypatch.setitem(method.__kwdefaults__, "timeout_s", 0.5)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_gets_no_key(tmp_path: Path, use: Use, status: int) -> None:
    with (
        server(lambda handler, _: send(handler, 200, {})) as (other, others),
        server(lambda handler, _: send(handler, status, {}, Location=other)) as (url, seen),
        pytest.raises(resnextq.Error, match=f"redirects to {other}"),
    ):
        use(Client(url, "k"), tmp_path)
    assert (len(seen), others) == (1, [])
    assert list(tmp_path.iterdir()) == []


def fails_first(handler: BaseHTTPRequestHandler, number: int) -> None:
    if number == 1:
        handler.close_connection = True  # and send no answer
    elif number == 2:
        send(handler, 503, {"code": "unavailable", "detail": "not yet"}, Retry_After="0")
    else:
        send(handler, 200, {"jobs": [], "next": None, "id": "a1"})


def test_reads_are_retried() -> None:
    with server(fails_first) as (url, seen):
        assert list(Client(url, "k").jobs()) == []
    assert len(seen) == 3


def test_a_submit_is_retried_only_with_a_key() -> None:
    with server(fails_first) as (url, seen):
        with pytest.raises(resnextq.ServerUnavailable):
            Client(url, "k").submit(URIS)
        assert len(seen) == 1
    with server(fails_first) as (url, seen):
        assert Client(url, "k").submit(URIS, key="mine").id == "a1"
    assert [body for _, _, _, body in seen] == [("\n".join(URIS) + "\n").encode()] * 3


def test_only_an_idempotent_post_is_retried() -> None:
    """A second `retry` would also run images that failed after the first one."""
    with server(fails_first) as (url, seen):
        with pytest.raises(resnextq.ServerUnavailable):
            Client(url, "k").job("a1").retry()
        assert len(seen) == 1
    for change in ("cancel", "pause", "resume"):
        with server(fails_first) as (url, seen):
            assert getattr(Client(url, "k").job("a1"), change)().id == "a1"
        assert len(seen) == 3


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_answer_that_drips_for_ever_times_out(tmp_path: Path, use: Use, hasty) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not stop.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    with server(drip) as (url, _):
        with pytest.raises((resnextq.TimedOut, resnextq.ServerUnavailable)):
            use(Client(url, "k", timeout_s=0.5), tmp_path)
        stop.set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_server_that_never_answers_times_out(tmp_path: Path, use: Use, hasty) -> None:
    stop = threading.Event()
    with server(lambda _handler, _number: stop.wait() and None) as (url, _):
        with pytest.raises((resnextq.TimedOut, resnextq.ServerUnavailable)):
            use(Client(url, "k", timeout_s=0.5), tmp_path)
        stop.set()


def test_a_wait_times_out_if_no_answer_comes(monkeypatch) -> None:
    monkeypatch.setattr("resnextq.job.ANSWER_S", 0.2)
    stop = threading.Event()
    with server(lambda _handler, _number: stop.wait() and None) as (url, seen):
        with pytest.raises((resnextq.TimedOut, resnextq.ServerUnavailable)):
            Client(url, "k", timeout_s=3_600).job("a1").wait(timeout=0.1)
        stop.set()
    assert len(seen) == 1


LONG = [f"https://a.org/{'x' * 8_000}/{n}" for n in range(2_000)]
"""16 MB: more than the sockets buffer if nothing reads."""


@contextmanager
def slow_server(ready: threading.Event) -> Iterator[str]:
    """A server that reads no list until `ready` is set, and then answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            ready.wait()
            with suppress(OSError):
                self.rfile.read(int(self.headers["Content-Length"]))
                send(self, 201, {"id": "a1"})

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        ready.set()
        running.shutdown()
        thread.join()


def test_a_server_may_read_a_list_slowly(monkeypatch) -> None:
    """It may take longer than the timeout for connecting."""
    monkeypatch.setattr("resnextq.transport.CONNECT_S", 0.2)
    ready = threading.Event()
    with slow_server(ready) as url:
        threading.Timer(1, ready.set).start()
        assert Client(url, "k").submit(LONG).id == "a1"


def test_a_list_that_the_server_does_not_read_times_out() -> None:
    with (
        slow_server(threading.Event()) as url,
        pytest.raises((resnextq.TimedOut, resnextq.ServerUnavailable)),
    ):
        Client(url, "k").submit(LONG, timeout_s=0.5)


def chunked(handler: BaseHTTPRequestHandler) -> None:
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'5\r\n{"a"\n\r\n')


def with_length(handler: BaseHTTPRequestHandler) -> None:
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"a": 1}\n')


@pytest.mark.parametrize("begin", [chunked, with_length])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_answer_that_ends_early_is_an_error_and_leaves_no_file(
    tmp_path: Path, use: Use, begin: Callable[[BaseHTTPRequestHandler], None], monkeypatch
) -> None:
    monkeypatch.setattr("resnextq.transport.FIRST_WAIT_S", 1e9)  # too long to retry

    def cut(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        begin(handler)
        handler.close_connection = True

    with server(cut) as (url, _), pytest.raises(resnextq.ServerUnavailable, match="ended early"):
        use(Client(url, "k"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_from_another_program_is_an_error() -> None:
    def greet(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "6")
        handler.end_headers()
        handler.wfile.write(b"<html>")

    with server(greet) as (url, _), pytest.raises(resnextq.Error, match="Is it a resnext-queue"):
        Client(url, "k").job("a1").status()


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://a", "k", "must begin with http"),
        ("a.org", "k", "must begin with http"),
        ("http://a.org", "é", "printable ASCII"),
        (None, "k", "No server"),
        ("http://a.org", None, "No key"),
    ],
)
def test_bad_client_settings_are_refused(url: str | None, key: str | None, message: str) -> None:
    with pytest.raises(resnextq.Error, match=message):
        Client(url, key)


def test_a_client_finds_the_address_and_key_of_up(tmp_path: Path, monkeypatch, api: Api) -> None:
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path))
    (tmp_path / "api-url").write_text(f"{api.url}\n")
    (tmp_path / "api-key").write_text(f"{api.submitter.key}\n")
    assert list(Client().jobs()) == []


def test_a_job_is_deleted_once_it_has_ended(client: Client, engine: Engine) -> None:
    job = client.submit(URIS)
    with pytest.raises(resnextq.Conflict, match="Cancel it first"):
        job.delete()
    finish(engine, job, 3)
    job.delete()
    for again in (job.delete, job.status):
        with pytest.raises(resnextq.NotFound):
            again()
    assert list(client.jobs()) == []
