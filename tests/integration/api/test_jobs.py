"""Jobs over HTTP, on both databases: submit, list, look, cancel, retry, and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, job_tags, jobs, results, workers
from producer.api.shapes import JobsOut, ModelsOut, SubmittedOut, WorkersOut
from producer.dispatcher.abandoned import Remains
from producer.jobs.export.window import Windows
from producer.jobs.purge import delete
from producer.removal import Removal, once
from tests.servers.api import Api, Caller

LINES = "https://a.org/1\tone\nhttps://a.org/2\n"
TEXT = {"Content-Type": "text/plain"}


def submit(caller: Caller, **wanted: Any) -> dict[str, Any]:
    answer = caller.post("/v1/jobs", json={"uris": ["https://a.org/1"], **wanted})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def number_of(engine: Engine, job: str) -> int:
    with reading(engine) as connection:
        return connection.execute(select(jobs.c.number).where(jobs.c.id == job)).scalar_one()


def test_json_becomes_a_job(api: Api, engine: Engine) -> None:
    images = [{"uri": "https://a.org/1", "ref": "one"}, {"uri": "https://a.org/2"}]
    wanted = {
        "images": images,
        "name": "two",
        "priority": 3,
        "expires_s": 3600,
        "precision": "fp32",
    }
    answer = api.submitter.post("/v1/jobs", json=wanted)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert SubmittedOut.model_validate(job, strict=True).model_dump() == job
    expected = {
        "name": "two", "owner": "ann", "state": "running", "paused": False, "priority": 3,
        "precision": "fp32", "served": 0, "total": 2, "pending": 2, "key": None, "tags": {},
        "queue": "resnext101_32x4d.nvidia.fp32", "model": "resnext101_32x4d",
    }  # fmt: skip
    assert {name: job[name] for name in expected} == expected
    assert job["expires_at"] > job["created_at"]
    with reading(engine) as connection:
        row = connection.execute(select(chunk_uris.c.uris, chunk_uris.c.refs)).one()
    assert (row.uris, row.refs) == (["https://a.org/1", "https://a.org/2"], ["one", None])


def test_a_list_becomes_a_job(api: Api, engine: Engine) -> None:
    """The options are query parameters, since the body is the list."""
    lines = "".join(f"https://a.org/{n}\tid-{n}\n" for n in range(5_000))
    options = {"name": "list", "priority": "-2"}
    answer = api.submitter.post("/v1/jobs", data=lines, headers=TEXT, params=options)
    assert (answer.status_code, answer.json()["total"]) == (201, 5_000)
    assert (answer.json()["name"], answer.json()["priority"]) == ("list", -2)
    with reading(engine) as connection:
        rows = connection.execute(select(chunk_uris).order_by(chunk_uris.c.chunk)).all()
    assert [uri for row in rows for uri in row.uris] == lines.replace("\t", " ").split()[::2]
    assert [ref for row in rows for ref in row.refs] == [f"id-{n}" for n in range(5_000)]


def test_repeating_a_request_with_its_key_makes_one_job(api: Api) -> None:
    again = {"headers": TEXT | {"Idempotency-Key": "k-1"}}
    first = api.submitter.post("/v1/jobs", data=LINES, **again)
    second = api.submitter.post("/v1/jobs", data=LINES, **again)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.json()["key"] == "k-1"
    other = api.submitter.post("/v1/jobs", data="https://a.org/3\n", **again)
    assert (other.status_code, other.json()["code"]) == (422, "key_conflict")
    assert len(api.reader.get("/v1/jobs").json()["jobs"]) == 1


def test_another_model_comes_with_its_own_weights(api: Api) -> None:
    job = submit(api.submitter, model="resnext_tiny_imagenet")
    assert (job["model"], job["weights"]) == ("resnext_tiny_imagenet", "bundled")
    job = submit(api.submitter, model="resnext_tiny_imagenet", weights="random")
    assert job["queue"] == "resnext_tiny_imagenet.random.amp"


def test_jobs_are_listed_in_pages(api: Api) -> None:
    made = [submit(api.submitter, name=f"job {n}")["id"] for n in range(5)]
    found, path = [], "/v1/jobs?limit=2"
    while path:
        answer = api.reader.get(path)
        page = answer.json()
        assert JobsOut.model_validate(page, strict=True).model_dump() == page
        found += [job["id"] for job in page["jobs"]]
        link = answer.links.get("next")
        assert (link is None) == (page["next"] is None)
        path = link["url"] if link else ""
    assert found == made[::-1]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=cancelled", ["b"]),
        ("state=running", ["c 100%", "a"]),
        ("name=100%25", ["c 100%"]),
        ("name=%25", ["c 100%"]),
        ("name=a%00", []),
        ("tag=a%3D%00", []),
        ("tag=team", ["c 100%", "a"]),
        ("tag=team=red", ["a"]),
        ("tag=team&tag=run=7", ["a"]),
        ("since=2000-01-01T00:00:00Z", ["c 100%", "b", "a"]),
        ("since=2100-01-01T00:00:00Z", []),
    ],
)
def test_a_list_is_filtered(api: Api, engine: Engine, query: str, names: list[str]) -> None:
    ids = {name: submit(api.submitter, name=name)["id"] for name in ("a", "b", "c 100%")}
    assert api.submitter.post(f"/v1/jobs/{ids['b']}/cancel").ok
    tags = [("a", "team", "red"), ("a", "run", "7"), ("c 100%", "team", "blue")]
    with engine.begin() as connection:
        for name, key, value in tags:
            number = connection.scalar(select(jobs.c.number).where(jobs.c.id == ids[name]))
            connection.execute(insert(job_tags).values(job_number=number, key=key, value=value))
    page = api.reader.get(f"/v1/jobs?{query}").json()
    assert [job["name"] for job in page["jobs"]] == names
    if "team" in query:
        assert page["jobs"][-1]["tags"] == {"run": "7", "team": "red"}


def test_an_unchanged_job_is_not_sent_again(api: Api, engine: Engine) -> None:
    path = f"/v1/jobs/{submit(api.submitter)['id']}"
    first = api.reader.get(path)
    assert int(first.headers["Retry-After"]) in range(1, 31)
    tag = {"If-None-Match": first.headers["ETag"]}
    again = api.reader.get(path, headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    with engine.begin() as connection:
        connection.execute(
            update(jobs).values(classified=1, state="completed", finished_at=db_now())
        )
    changed = api.reader.get(path, headers=tag)
    assert (changed.status_code, changed.json()["state"]) == (200, "completed")
    assert "Retry-After" not in changed.headers


def test_jobs_are_cancelled_and_retried(api: Api, engine: Engine) -> None:
    job = submit(api.submitter)["id"]
    with engine.begin() as connection:
        from contract.database.tables import chunks

        number = connection.scalar(select(jobs.c.number))
        connection.execute(
            insert(results).values(
                job_number=number,
                position=0,
                uri="https://a.org/1",
                attempts=3,
                settled_at=db_now(),
                error_code="timeout",
                error_detail="",
            )
        )
        connection.execute(update(jobs).values(failed=1, errors={"timeout": 1}, state="completed"))
        connection.execute(update(chunks).values(state="done", remaining_images=0))
    errors = api.reader.get(f"/v1/jobs/{job}/errors").json()
    assert errors == {"errors": [{"code": "timeout", "host": "a.org", "images": 1}]}
    nothing = api.submitter.post(f"/v1/jobs/{job}/retry", json={"errors": ["http_404"]})
    assert nothing.json() == {"images": 0, "left": 0}
    assert api.submitter.post(f"/v1/jobs/{job}/retry").json() == {"images": 1, "left": 0}
    assert api.reader.get(f"/v1/jobs/{job}").json()["state"] == "running"
    for _ in range(2):  # a second retry changes nothing
        answer = api.submitter.post(f"/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    ended = api.submitter.post(f"/v1/jobs/{submit(api.submitter)['id']}/retry")
    assert ended.json() == {"images": 0, "left": 0}


def test_models_and_workers_show_who_serves_a_job(api: Api, engine: Engine) -> None:
    job = submit(api.submitter)
    with engine.begin() as connection:
        connection.execute(
            insert(workers).values(
                name="w-1",
                queue=job["queue"],
                device="cuda:0",
                precision="fp16",
                version="0.1.0",
                images_per_s=12.5,
                started_at=db_now(),
                heartbeat_at=db_now(),
                stopping=False,
            )
        )
    models = api.reader.get("/v1/models").json()
    assert ModelsOut.model_validate(models, strict=True).model_dump() == models
    assert [(one["queue"], one["workers"]) for one in models["models"]] == [(job["queue"], 1)]
    found = api.reader.get("/v1/workers").json()
    assert WorkersOut.model_validate(found, strict=True).model_dump() == found
    assert [(one["name"], one["images_per_s"]) for one in found["workers"]] == [("w-1", 12.5)]
    assert api.reader.get(f"/v1/jobs/{job['id']}").json()["served"] == 1


def test_an_ended_job_cannot_be_cancelled(api: Api, engine: Engine) -> None:
    job = submit(api.submitter)["id"]
    with engine.begin() as connection:
        connection.execute(update(jobs).values(state="completed", finished_at=db_now()))
    answer = api.submitter.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")


def test_openapi_lists_the_operations(api: Api) -> None:
    told = api.reader.get("/openapi.json").json()
    assert set(told["paths"]) >= {
        "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/classes", "/v1/jobs/{job_id}/errors",
        "/v1/models", "/v1/workers", "/healthz", "/readyz",
    }  # fmt: skip
    named = {part.split('"', 1)[0] for part in json.dumps(told).split("#/components/schemas/")[1:]}
    assert named <= set(told["components"]["schemas"])
    assert told["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}


def test_jobs_are_paused_resumed_and_edited(api: Api) -> None:
    job = submit(api.submitter, tags={"team": "red"}, stop_at_failures=0.5)["id"]
    path = f"/v1/jobs/{job}"
    for what, paused in (("pause", True), ("pause", True), ("resume", False)):
        answer = api.submitter.post(f"{path}/{what}")
        assert (answer.status_code, answer.json()["paused"]) == (200, paused)
    wanted = {"name": "new", "priority": 7, "tags": {"team": None, "run": "8"}}
    changed = api.submitter("PATCH", path, json=wanted).json()
    assert (changed["name"], changed["priority"], changed["tags"]) == ("new", 7, {"run": "8"})
    assert api.submitter("PATCH", path, json={}).json() == changed
    refused = api.submitter("PATCH", path, json={"state": "completed"})
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_request")
    assert api.reader("PATCH", path, json={}).status_code == 403
    query = {"tag": ["a=1", "b=2"], "stop_at_failures": "0.5"}
    listed = api.submitter.post("/v1/jobs", data=LINES, headers=TEXT, params=query).json()
    assert listed["tags"] == {"a": "1", "b": "2"}
    wrong = api.submitter.post("/v1/jobs", data=LINES, headers=TEXT, params={"tag": "a"})
    assert (wrong.status_code, "Write key=value" in wrong.text) == (422, True)


def end(engine: Engine, job: str, images: int = 1) -> int:
    """Let all of the job's images fail, and return its number."""
    number = number_of(engine, job)
    row = {"job_number": number, "uri": "https://a.org/", "attempts": 1, "error_code": "timeout"}
    with engine.begin() as connection:
        rows = [row | {"position": n} for n in range(images)]
        connection.execute(insert(results).values(settled_at=db_now()), rows)
        ended = {"failed": images, "state": "completed", "finished_at": db_now()}
        connection.execute(update(jobs).where(jobs.c.number == number).values(**ended))
    return number


def test_an_ended_job_is_deleted(api: Api, engine: Engine) -> None:
    """The job is unknown at once, and the dispatcher deletes its rows later."""
    again = {"headers": TEXT | {"Idempotency-Key": "k-1"}}
    job = api.submitter.post("/v1/jobs", data=LINES, **again).json()["id"]
    number = end(engine, job)
    answer = api.submitter("DELETE", f"/v1/jobs/{job}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.reader.get("/v1/jobs").json()["jobs"] == []
    for path in ("", "/results", "/classes", "/errors", "/events"):
        gone = api.reader.get(f"/v1/jobs/{job}{path}")
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_job")
    second = api.submitter("DELETE", f"/v1/jobs/{job}")
    assert (second.status_code, second.json()["code"]) == (404, "unknown_job")
    new = api.submitter.post("/v1/jobs", data=LINES, **again)
    assert (new.status_code, new.json()["id"] == job) == (201, False)
    Remains().remove(engine, for_s=60)
    with reading(engine) as connection:
        for table in (results, chunk_uris):
            statement = select(table).where(table.c.job_number == number)
            assert connection.execute(statement).all() == []


def test_a_running_job_is_not_deleted(api: Api) -> None:
    job = submit(api.submitter)["id"]
    answer = api.submitter("DELETE", f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert f"POST /v1/jobs/{job}/cancel" in answer.json()["detail"]
    assert api.reader.get(f"/v1/jobs/{job}").json()["state"] == "running"
    assert api.submitter.post(f"/v1/jobs/{job}/cancel").ok
    assert api.submitter("DELETE", f"/v1/jobs/{job}").status_code == 204


def test_a_job_is_deleted_only_by_its_whole_id(api: Api, engine: Engine) -> None:
    job = submit(api.submitter)["id"]
    end(engine, job)
    assert api.submitter("DELETE", f"/v1/jobs/{job[:8]}").status_code == 404
    assert api.reader("DELETE", f"/v1/jobs/{job}").status_code == 403
    assert api.reader.get(f"/v1/jobs/{job}").ok


def test_deleting_a_job_ends_the_event_stream(api: Api, engine: Engine) -> None:
    job = submit(api.submitter)["id"]
    stream = api.reader.get(f"/v1/jobs/{job}/events", stream=True)
    lines = stream.iter_lines(decode_unicode=True)
    assert "event: progress" in (next(lines), next(lines))
    assert api.submitter.post(f"/v1/jobs/{job}/cancel").ok
    assert api.submitter("DELETE", f"/v1/jobs/{job}").status_code == 204
    assert "event: end" in list(lines)


def test_deleting_a_job_breaks_its_stream_of_results(api: Api, engine: Engine, monkeypatch) -> None:
    """Otherwise a client would take a part of the results for all of them."""
    job = submit(api.submitter)["id"]
    number = end(engine, job)
    read = Windows.read

    def read_when_deleted(windows: Windows, start: int, stop: int) -> Any:
        delete(engine, job)
        Removal(number, once(engine)).step()
        return read(windows, start, stop)

    monkeypatch.setattr(Windows, "read", read_when_deleted)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        api.reader.get(f"/v1/jobs/{job}/results", headers={"Accept": "application/x-ndjson"})
