"""Hostile text in every field of a job changes only the text of a page.

The same page with a harmless text has the same tags and attributes.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, delete, insert, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import api_keys, jobs, thumbnails, workers
from producer.jobs.job import find_job
from producer.pages.report import make_report
from tests.hostile import EVERYTHING, TEXTS
from tests.markup import read_markup
from tests.servers.visitor import Visitor
from tests.settled import Answers, make_job

PATHS = (
    "/", "/?part=jobs", "/jobs/{job}", "/jobs/{job}?part=details", "/jobs/{job}?outcome=failed",
    "/jobs/{job}/images/0", "/jobs/{job}/images/1", "/workers",
)  # fmt: skip
HARMLESS = "a harmless text"
# Some texts match nothing: no name has unprintable characters, and no tag has a "=".
FILTERS = ("/?name={}", "/?tag={}&state={}")
# The page of an image has links to the previous and the next image.
NEIGHBOURS = {"0", "1", "2"}
WITHIN = ("/", "?", "#", "data:image/jpeg;base64,")


def add_worker(engine: Engine, text: str) -> None:
    with engine.begin() as connection:
        connection.execute(delete(workers))
        connection.execute(
            insert(workers).values(
                name=text, queue=text, device=text, precision="fp16", version="1", images_per_s=1.0,
                started_at=db_now(), heartbeat_at=db_now(), stopping=False,
            )
        )  # fmt: skip


def pages_with(visitor: Visitor, engine: Engine, text: str) -> dict[str, str]:
    """Every page of a job that has this text in all fields. The job is deleted afterwards."""
    job = make_job(engine, Answers(total=4, failed=[1, 3], text=text))
    add_worker(engine, text)
    with engine.begin() as connection:
        connection.execute(update(api_keys).values(name=text))
    found = {path: visitor.get(path.format(job=job)).text for path in PATHS}
    with visitor.get(f"/jobs/{job}/events", stream=True) as answer:
        (data,) = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        found["events"] = json.loads(data.removeprefix("data: "))
    for path in (*FILTERS, f"/jobs/{job}?label={{}}&error={{}}"):
        found[path.replace(job, "")] = visitor.get(path.format(quote(text), quote(text))).text
    pasted = visitor.send("/", "/jobs", list=text, name=text, tags=text, column=text)
    found["wrong"] = pasted.text
    with reading(engine) as connection:
        found["report"] = make_report(engine, find_job(connection, job), 30.0)
    with engine.begin() as connection:
        connection.execute(delete(thumbnails))
        connection.execute(delete(jobs))
    return {name: page.replace(job, "ID") for name, page in found.items()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # the test is about HTML
def test_no_text_becomes_markup(
    visitor: Visitor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.pages.sessions.KEPT_S", 0.0)
    monkeypatch.setattr("producer.api.watch.LOOK_EVERY_S", 0.01)
    harmless = pages_with(visitor, engine, HARMLESS)
    assert all(page.count(HARMLESS) for path, page in harmless.items() if path != "events")
    expected = {path: [read_markup(page).shape] for path, page in harmless.items()}
    nothing = read_markup(visitor.get("/?name=none").text).shape
    for path in FILTERS:
        expected[path].append(nothing)
    for text in (EVERYTHING, *TEXTS):
        for path, page in pages_with(visitor, engine, text).items():
            found = read_markup(page)
            assert found.shape in expected[path], (path, text)
            outside = [link for link in found.links if not link.startswith(WITHIN)]
            assert set(outside) <= NEIGHBOURS, (path, text)
            assert "\u202e" not in page, (path, text)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "uri",
    ["javascript:hit()", "data:text/html,x", 'https://a.org/"onclick=hit()', "HTTPS://a.org/<x>",
     "//evil.example/", "https:evil.example", "http://[::1", "file:///etc/passwd", "s3://a/b"],
)  # fmt: skip
def test_only_web_addresses_become_links(visitor: Visitor, engine: Engine, uri: str) -> None:
    job = make_job(engine, Answers(total=4, failed=[1, 3], text=uri))
    page = visitor.get(f"/jobs/{job}/images/0").text
    outside = [link for link in read_markup(page).links if not link.startswith(("/", "1", "#main"))]
    is_web = uri.lower().startswith("https://a.org/")
    assert outside == ([uri, uri] if is_web else [])
    assert page.count('rel="noreferrer noopener nofollow"') == len(outside)
