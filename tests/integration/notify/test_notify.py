"""The notification of a job's end is signed and sent once, whatever the receiver does."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import Engine, Row, insert, select, update
from standardwebhooks import Webhook

from contract.addresses import FetchAllow
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, notifications, tallies
from contract.errors import UsageError
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.jobs.cancel import cancel
from producer.notify import sender as sending
from producer.notify.sender import Sender
from producer.submit.sources.entry import Entry
from producer.submit.submission import Order, Submission, submit_entries
from tests.wait import until

LOOPBACK = FetchAllow.parse(["127.0.0.0/8"])
KILLS = 50


def make_job(engine: Engine, notify: str | None, images: int = 2) -> Submission:
    entries = (Entry(f"https://a.org/{n}", None, "", 0) for n in range(images))
    order = Order.of(Settings(), name="mine", key=None, priority=0, owner="ann", notify=notify)
    return submit_entries(engine, entries, order)


def tally(engine: Engine, job: str, classified: int = 2) -> None:
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        row = {"job_number": number, "classified": classified, "failed": 0, "errors": {}}
        connection.execute(insert(tallies).values(**row))


def rows(engine: Engine) -> list[Row[Any]]:
    with reading(engine) as connection:
        return list(connection.execute(select(notifications).order_by(notifications.c.id)))


class Receiver:
    """Gives the answers that a test sets, and keeps the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[int], tuple[int, dict[str, str]]] = lambda _: (204, {})
        self.open = threading.Event()
        self.open.set()


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.came.append((self.path, dict(self.headers), body))
            receiver.open.wait(60)
            status, headers = receiver.answer(len(receiver.came))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        receiver.url = f"http://{host}:{server.server_address[1]}/hook?token=hunter2"
        yield receiver
        receiver.open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def sender(engine: Engine, monkeypatch) -> Iterator[Sender]:
    monkeypatch.setattr(sending, "LOOK_EVERY_S", 0.02)
    sender = Sender(engine, LOOPBACK)
    sender.start()
    yield sender
    sender.stop()


def test_an_end_is_notified_once_with_a_signature(engine: Engine, sender: Sender, caplog) -> None:
    caplog.set_level("INFO")
    with receiving() as receiver:
        job = make_job(engine, receiver.url)
        quiet = make_job(engine, None)
        assert job.notify_secret is not None
        assert quiet.notify_secret is None
        for one in (job, quiet):
            tally(engine, one.job)
        fold(engine)
        until(lambda: rows(engine)[0].delivered_at)
        fold(engine)
    ((path, headers, body),) = receiver.came
    told = Webhook(job.notify_secret).verify(body, headers)
    assert path == "/hook?token=hunter2"
    assert (told["type"], told["data"]["id"], told["data"]["classified"]) == (
        "job.completed",
        job.job,
        2,
    )
    assert datetime.fromisoformat(told["timestamp"]).tzinfo is not None
    assert headers["webhook-id"] == rows(engine)[0].event_id == f"{job.job}-1"
    with pytest.raises(Exception, match="signature"):
        Webhook("whsec_" + "A" * 32).verify(body, headers)
    assert "hunter2" not in caplog.text
    assert job.notify_secret not in caplog.text


def test_a_job_that_ends_again_is_notified_again(engine: Engine) -> None:
    job = make_job(engine, "https://example.org/hook").job
    for _ in range(3):
        tally(engine, job)
        fold(engine)
        with engine.begin() as connection:
            again = {"state": "running", "finished_at": None, "classified": 0}
            connection.execute(update(jobs).values(**again))
    assert [row.event_id for row in rows(engine)] == [f"{job}-{n}" for n in (1, 2, 3)]


def test_a_cancelled_job_is_notified_once_it_is_finished(engine: Engine) -> None:
    job = make_job(engine, "https://example.org/hook").job
    cancel(engine, job)
    assert rows(engine) == []
    tally(engine, job)
    fold(engine)
    (row,) = rows(engine)
    assert json.loads(row.body)["type"] == "job.cancelled"


def test_a_failing_receiver_is_retried(engine: Engine, sender: Sender, monkeypatch, caplog) -> None:
    monkeypatch.setattr(sending, "WAITS_S", (0.0,) * 9)
    with receiving() as receiver:
        receiver.answer = lambda n: (500, {}) if n < 3 else (200, {})
        job = make_job(engine, receiver.url).job
        tally(engine, job)
        fold(engine)
        until(lambda: rows(engine)[0].delivered_at)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.came}) == 1
    assert (len(receiver.came), rows(engine)[0].attempts) == (3, 3)
    assert "failed, will be tried again in 0 s: the answer's status is 500" in caplog.text


def test_retries_grow_apart_and_last_more_than_a_day(engine: Engine, monkeypatch) -> None:
    assert sum(sending.WAITS_S) > 86_400
    assert list(sending.WAITS_S) == sorted(sending.WAITS_S)
    monkeypatch.setattr(sending, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(sending, "LOOK_EVERY_S", 0.02)
    sender = Sender(engine, LOOPBACK)
    with receiving() as receiver:
        receiver.answer = lambda _: (503, {})
        tally(engine, make_job(engine, receiver.url).job)
        fold(engine)
        sender.start()
        until(lambda: rows(engine)[0].failed_at)
        sender.stop()
    assert (len(receiver.came), rows(engine)[0].delivered_at) == (3, None)


def test_a_receiver_that_answers_410_is_not_retried(engine: Engine, sender: Sender) -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: (410, {})
        tally(engine, make_job(engine, receiver.url).job)
        fold(engine)
        until(lambda: rows(engine)[0].failed_at)
    assert len(receiver.came) == 1


def test_a_redirect_is_not_followed(engine: Engine, sender: Sender) -> None:
    with receiving() as receiver, receiving("127.0.0.2") as inside:
        receiver.answer = lambda _: (307, {"Location": inside.url})
        tally(engine, make_job(engine, receiver.url).job)
        fold(engine)
        until(lambda: rows(engine)[0].last_error)
        assert inside.came == []
    assert rows(engine)[0].last_error == "the answer's status is 307"


def test_a_private_address_is_not_notified(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(sending, "LOOK_EVERY_S", 0.02)
    sender = Sender(engine, FetchAllow())
    with receiving() as receiver:
        tally(engine, make_job(engine, receiver.url).job)
        fold(engine)
        sender.start()
        until(lambda: rows(engine)[0].last_error)
        sender.stop()
        assert receiver.came == []
    assert "private address" in rows(engine)[0].last_error


def test_a_receiver_that_hangs_delays_no_other(engine: Engine, sender: Sender) -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(receiving())
        quick = stack.enter_context(receiving("127.0.0.2"))
        slow.open.clear()
        for _ in range(20):
            tally(engine, make_job(engine, slow.url).job)
        fold(engine)
        until(lambda: slow.came)
        tally(engine, make_job(engine, quick.url).job)
        fold(engine)
        until(lambda: rows(engine)[-1].delivered_at)
        assert len(slow.came) == 1, "only one notification to a host is in flight"
        slow.open.set()
        until(lambda: all(row.delivered_at for row in rows(engine)))
    assert len(slow.came) == 20


def test_several_senders_send_nothing_twice(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(sending, "LOOK_EVERY_S", 0.01)
    senders = [Sender(engine, LOOPBACK) for _ in range(3)]
    with receiving() as receiver:
        for _ in range(10):
            tally(engine, make_job(engine, receiver.url).job)
        fold(engine)
        for sender in senders:
            sender.start()
        until(lambda: all(row.delivered_at for row in rows(engine)))
        for sender in senders:
            sender.stop()
    assert len({headers["webhook-id"] for _, headers, _ in receiver.came}) == 10
    assert len(receiver.came) == 10


def fold_until_killed(url: str) -> None:
    engine = make_engine(url)
    while True:
        fold(engine)


def test_a_killed_dispatcher_notifies_each_end_once(engine: Engine, settings) -> None:
    """It is killed fifty times at random moments while jobs end."""
    made = [make_job(engine, "https://example.org/hook").job for _ in range(KILLS)]
    chosen = random.Random(5)
    engine.dispose()  # a child process must not share a connection
    for job in made:
        child = os.fork()
        if not child:
            try:
                fold_until_killed(settings.database())
            finally:
                os._exit(1)
        tally(engine, job)
        time.sleep(chosen.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    fold(engine)
    assert sorted(row.event_id for row in rows(engine)) == sorted(f"{job}-1" for job in made)
    with reading(engine) as connection:
        assert set(connection.scalars(select(jobs.c.state))) == {"completed"}


@pytest.mark.parametrize(
    "url",
    ["ftp://a.org/", "a.org", "http://", "https://u:p@a.org/", "https://a.org/#x", "http://é.org/",
     "https://a.org/" + "x" * 2000, "http://[::1", "http://a.org:99999/"],
)  # fmt: skip
def test_an_invalid_url_is_refused(engine: Engine, url: str) -> None:
    with pytest.raises(UsageError, match="notify"):
        make_job(engine, url)
    with reading(engine) as connection:
        assert connection.execute(select(jobs)).all() == []


def test_a_notification_is_sent_by_another_after_its_sender_died(engine: Engine) -> None:
    tally(engine, make_job(engine, "https://example.org/hook").job)
    fold(engine)
    with engine.begin() as connection:
        taken = {"attempts": 1, "next_attempt_at": db_now(-1)}
        connection.execute(update(notifications).values(**taken))
    again = Sender(engine, LOOPBACK)._take(rows(engine)[0].id)
    assert again is not None
    assert again.attempts == 2
    assert Sender(engine, LOOPBACK)._take(again.id) is None
