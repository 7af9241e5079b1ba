"""Thumbnails over HTTP: filtered pages, pictures that a browser may cache, and problems."""

from __future__ import annotations

from typing import Any

import pytest
from resnextq import Client
from resnextq.errors import NotFound
from sqlalchemy import Engine, insert, select, update

from contract.database.clock import db_now
from contract.database.tables import jobs, labels, models, results
from contract.thumbnails import ThumbnailRow, insert_thumbnails
from producer.api.shapes import ThumbnailOut
from tests.servers.api import Api

IMAGES = 10
LABELS = {1: "tabby", 2: "espresso"}


@pytest.fixture
def job(api: Api, engine: Engine) -> str:
    """A job of ten images. Every fifth has failed; two classes alternate, with rising scores."""
    uris = [f"https://a.org/{n}" for n in range(IMAGES)]
    job: str = api.submitter.post("/v1/jobs", json={"uris": uris}).json()["id"]
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        assert number is not None
        of_job = connection.execute(select(jobs.c.model, jobs.c.weights)).one()
        model = connection.execute(
            insert(models)
            .values(title="m", weights_sha256="0" * 64, **of_job._mapping)
            .returning(models.c.number)
        ).scalar_one()
        named = [
            {"model_number": model, "class_id": n, "label": name} for n, name in LABELS.items()
        ]
        connection.execute(insert(labels), named)
        for n in range(IMAGES):
            connection.execute(insert(results).values(_row(number, model, n)))
        connection.execute(update(jobs).values(state="completed", finished_at=db_now()))
        insert_thumbnails(
            connection,
            [ThumbnailRow(number, n, sampled=True, jpeg=b"\xff\xd8 %d" % n) for n in range(IMAGES)],
        )
    return job


def _row(job: int, model: int, n: int) -> dict[str, Any]:
    row = {"job_number": job, "position": n, "uri": f"https://a.org/{n}", "attempts": 1}
    row |= {"settled_at": db_now(), "ref": f"id-{n}" if n % 2 else None}
    if n % 5 == 0:
        return row | {"error_code": "not_finite", "error_detail": ""}
    return row | {"model_number": model, "class_1": 1 + n % 2, "score_1": n / 16}


def pages(api: Api, job: str, query: str) -> list[dict[str, Any]]:
    return api.reader.pages(f"/v1/jobs/{job}/thumbnails", "thumbnails", query)


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 1000])
def test_pages_have_each_image_once(api: Api, job: str, limit: int) -> None:
    found = pages(api, job, f"limit={limit}")
    assert [one["position"] for one in found] == list(range(IMAGES))
    for one in found:
        ThumbnailOut.model_validate(one)
    assert found[0]["error"] == {"code": "not_finite", "detail": ""}
    assert found[1]["top5"] == [{"label": "espresso", "class_id": 2, "score": 0.0625}]
    assert (found[1]["ref"], found[2]["ref"]) == ("id-1", None)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("only=failed", [0, 5]),
        ("only=classified", [1, 2, 3, 4, 6, 7, 8, 9]),
        ("label=tabby", [2, 4, 6, 8]),
        ("label=tabby&min_score=0.375", [6, 8]),
        ("label=tabby&label=espresso&min_score=0.5", [8, 9]),
    ],
)
def test_pages_are_filtered(api: Api, job: str, query: str, wanted: list[int]) -> None:
    assert [one["position"] for one in pages(api, job, f"{query}&limit=2")] == wanted


def test_a_client_may_cache_a_picture_and_revalidate_it(api: Api, job: str) -> None:
    path = f"/v1/jobs/{job}/thumbnails/3"
    answer = api.reader.get(path)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8 3")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"].startswith("private, max-age=")
    etag = answer.headers["ETag"]
    again = api.reader.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    other = api.reader.get(f"/v1/jobs/{job}/thumbnails/4", headers={"If-None-Match": etag})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/jobs/0123456789abcdef/thumbnails", 404, "unknown_job"),
        ("/v1/jobs/0123456789abcdef/thumbnails/0", 404, "unknown_job"),
        ("/v1/jobs/{job}/thumbnails/10", 404, "not_found"),
        ("/v1/jobs/{job}/thumbnails/-1", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails/9223372036854775808", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails/x", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails?label=tabb", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails?min_score=2", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails?cursor=!", 422, "bad_request"),
        ("/v1/jobs/{job}/thumbnails?only=failed&label=tabby", 422, "bad_request"),
    ],
)
def test_a_missing_thumbnail_is_a_problem(
    api: Api, job: str, path: str, status: int, code: str
) -> None:
    answer = api.reader.get(path.format(job=job))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_nothing_is_shown_without_a_key(api: Api, job: str) -> None:
    for path in (f"/v1/jobs/{job}/thumbnails", f"/v1/jobs/{job}/thumbnails/3"):
        assert api.stranger.get(path).status_code == 401


def test_the_client_reads_them(api: Api, job: str) -> None:
    found = Client(api.url, api.reader.key).job(job)
    assert [one.position for one in found.thumbnails()] == list(range(IMAGES))
    tabbies = list(found.thumbnails(label="tabby", min_score=0.375))
    assert [(one.position, one.top5[0].label) for one in tabbies] == [(6, "tabby"), (8, "tabby")]
    (failed, *_) = found.thumbnails(only="failed")
    assert failed.error is not None
    assert (failed.error.code, failed.top5) == ("not_finite", ())
    assert found.thumbnail(3) == b"\xff\xd8 3"
    with pytest.raises(NotFound):
        found.thumbnail(IMAGES)
