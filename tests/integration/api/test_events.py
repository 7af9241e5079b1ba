"""Clients wait for a job with a stream of events or with a long request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import requests
from sqlalchemy import Engine, delete, event, update

from contract.database.clock import db_now
from contract.database.tables import jobs
from producer.api.service import Service
from producer.jobs.job import Job
from tests.servers.api import Api
from tests.wait import WITHIN_S, until


def events_of(answer: requests.Response) -> Iterator[dict[str, Any]]:
    fields: dict[str, Any] = {}
    for line in answer.iter_lines(chunk_size=1):
        if line:
            name, _, value = line.decode().partition(": ")
            fields[name] = value
        elif fields:
            yield fields | {"data": orjson.loads(fields.get("data", "null"))}
            fields = {}


def follow(api: Api, job: str, **headers: str) -> requests.Response:
    sent = {"Authorization": f"Bearer {api.reader.key}"} | headers
    return requests.get(
        f"{api.url}/v1/jobs/{job}/events", headers=sent, stream=True, timeout=WITHIN_S
    )


def make_job(api: Api) -> str:
    answer = api.submitter.post("/v1/jobs", json={"uris": ["https://a.org/1", "https://a.org/2"]})
    job: str = answer.json()["id"]
    return job


def change(engine: Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).values(**values))


def finish(engine: Engine) -> None:
    change(engine, classified=2, state="completed", finished_at=db_now())


def test_a_job_is_followed_to_its_end(api: Api, engine: Engine) -> None:
    job = make_job(api)
    with closing(follow(api, job)) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = events_of(answer)
        first = next(events)
        assert (first["event"], first["data"]["classified"]) == ("progress", 0)
        assert first["data"] == api.reader.get(f"/v1/jobs/{job}").json()
        change(engine, classified=1)
        assert next(events)["data"]["classified"] == 1
        finish(engine)
        *_, last = events  # the stream ends
    assert (last["event"], last["data"]["state"]) == ("end", "completed")
    assert last["id"] == api.reader.get(f"/v1/jobs/{job}").headers["ETag"].strip('"')


def test_a_returning_client_gets_only_new_events(api: Api, engine: Engine) -> None:
    job = make_job(api)
    with closing(follow(api, job)) as answer:
        seen = next(events_of(answer))["id"]
    with closing(follow(api, job, **{"Last-Event-ID": seen})) as answer:
        change(engine, classified=1)
        assert next(events_of(answer))["data"]["classified"] == 1
    finish(engine)
    with closing(follow(api, job)) as answer:
        (last,) = events_of(answer)
    with closing(follow(api, job, **{"Last-Event-ID": last["id"]})) as answer:
        assert [one["event"] for one in events_of(answer)] == ["end"]


def test_deleting_a_job_ends_its_events(api: Api, engine: Engine) -> None:
    job = make_job(api)
    with closing(follow(api, job)) as answer:
        events = events_of(answer)
        next(events)
        with engine.begin() as connection:
            connection.execute(delete(jobs))
        assert [(one["event"], one["data"]) for one in events] == [("end", {})]


def test_many_listeners_cost_one_statement_a_second(api: Api, engine: Engine) -> None:
    """One statement reads all jobs, for all listeners."""
    made = [make_job(api) for _ in range(3)]
    statements: list[str] = []

    def note(_conn, _cursor, statement, *_rest) -> None:
        if "FROM jobs" in statement or "jobs." in statement:
            statements.append(statement)

    answers = [follow(api, job) for job in made for _ in range(10)]
    streams = [events_of(answer) for answer in answers]
    assert len({next(stream)["data"]["id"] for stream in streams}) == 3
    event.listen(engine, "before_cursor_execute", note)
    change(engine, classified=1)
    assert {next(stream)["data"]["classified"] for stream in streams} == {1}
    event.remove(engine, "before_cursor_execute", note)
    for answer in answers:
        answer.close()
    # The last listener hears of the change after two looks at most. Each look is one statement.
    assert len([one for one in statements if one.startswith("SELECT")]) <= 3


def test_a_long_request_waits_for_the_end(api: Api, engine: Engine) -> None:
    job = make_job(api)
    asked = threading.Event()
    answers: list[requests.Response] = []

    def ask() -> None:
        asked.set()
        answers.append(api.reader.get(f"/v1/jobs/{job}?wait_s=50"))

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    finish(engine)
    thread.join(WITHIN_S)
    assert [answer.json()["state"] for answer in answers] == ["completed"]
    short = api.reader.get(f"/v1/jobs/{make_job(api)}?wait_s=0.1")
    assert short.json()["state"] == "running"


def test_other_listeners_still_get_events_when_one_leaves(api: Api, engine: Engine) -> None:
    job = make_job(api)
    with closing(follow(api, job)) as stays, closing(follow(api, job)) as leaves:
        staying = events_of(stays)
        next(staying)
        next(events_of(leaves))
        leaves.close()
        change(engine, classified=1)
        assert next(staying)["data"]["classified"] == 1
    until(lambda: api.reader.get("/healthz").ok)


def test_a_job_deleted_before_the_first_look_ends_its_stream(
    api: Api, engine: Engine, monkeypatch
) -> None:
    job = make_job(api)
    find = Service.job

    def find_then_delete(service: Service, job_id: str) -> Job:
        found = find(service, job_id)
        change(engine, state="abandoned")
        return found

    monkeypatch.setattr(Service, "job", find_then_delete)
    with closing(follow(api, job)) as answer:
        (only,) = events_of(answer)
    assert (only["event"], only["data"]) == ("end", {})
