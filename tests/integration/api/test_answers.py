"""Results over HTTP: pages of JSON, and streams of JSONL, CSV and Parquet, on both databases."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from resnextq import Client
from sqlalchemy import Engine, insert, select, update

from contract.database.clock import db_now
from contract.database.tables import jobs, labels, models, results
from producer.api import results as answers
from producer.api.shapes import ResultOut
from tests.servers.api import Api

IMAGES = 25
LABELS = {1: "tabby", 2: "espresso", 3: "school bus", 4: "=bad", 5: "pug"}


@pytest.fixture
def job(api: Api, engine: Engine) -> str:
    """A job of 25 images. Every fifth has failed, and two classes alternate among the rest."""
    uris = [f"https://a.org/{n}" for n in range(IMAGES)]
    job: str = api.submitter.post("/v1/jobs", json={"uris": uris}).json()["id"]
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        model = connection.execute(
            insert(models)
            .values(
                title="resnext101_32x4d/nvidia", model="resnext101_32x4d", weights="nvidia",
                weights_sha256="0" * 64,
            )
            .returning(models.c.number)
        ).scalar_one()  # fmt: skip
        connection.execute(
            insert(labels),
            [{"model_number": model, "class_id": n, "label": name} for n, name in LABELS.items()],
        )
        for n in range(IMAGES):
            connection.execute(insert(results).values(row(number, model, n)))
        failed = IMAGES // 5
        counts = {"classified": IMAGES - failed, "failed": failed, "errors": {"timeout": failed}}
        connection.execute(update(jobs).values(**counts, state="completed", finished_at=db_now()))
    return job


def row(job: int | None, model: int, n: int) -> dict[str, Any]:
    common = {
        "job_number": job, "position": n, "uri": f"https://a.org/{n}", "attempts": 1,
        "settled_at": db_now(), "worker": "w-1", "ref": f"id-{n}" if n % 2 else None,
    }  # fmt: skip
    if n % 5 == 0:
        return common | {"error_code": "timeout", "error_detail": "no answer"}
    first = 1 + n % 2
    classes = [first, *(one for one in LABELS if one != first)]
    scores = (0.5 + n / 100, 0.2, 0.1, 0.05, 0.01)
    return common | {
        "model_number": model, "precision": "bf16", "orientation": "ignore", "bytes": 10 + n,
        "sha256": "ab" * 32, "format": "JPEG", "width": 3, "height": 2,
        **{f"class_{rank}": one for rank, one in enumerate(classes, start=1)},
        **{f"score_{rank}": one for rank, one in enumerate(scores, start=1)},
    }  # fmt: skip


def pages(api: Api, job: str, query: str) -> list[dict[str, Any]]:
    return api.reader.pages(f"/v1/jobs/{job}/results", "results", query)


def positions(rows: list[dict[str, Any]]) -> list[int]:
    return [one["position"] for one in rows]


@pytest.mark.parametrize("limit", [1, 4, 25, 1000])
def test_pages_have_each_image_once(api: Api, job: str, limit: int) -> None:
    found = pages(api, job, f"limit={limit}")
    assert positions(found) == list(range(IMAGES))
    for one in found:
        ResultOut.model_validate({"ref": None} | one)
    assert found[0]["error"] == {"code": "timeout", "detail": "no answer"}
    assert (found[1]["top5"][0]["label"], found[1]["ref"]) == ("espresso", "id-1")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("only=failed", [0, 5, 10, 15, 20]),
        ("error=timeout", [0, 5, 10, 15, 20]),
        ("error=http_404", []),
        ("label=tabby&min_score=0.7", [22, 24]),
        ("label=tabby&label=espresso&min_score=0.7", [21, 22, 23, 24]),
        ("only=classified&min_score=0.715", [22, 23, 24]),
    ],
)
@pytest.mark.parametrize("window", [3, 10_000])
def test_pages_are_filtered(  # noqa: PLR0917
    api: Api, job: str, monkeypatch, query: str, wanted: list[int], window: int
) -> None:
    """A window without a match does not end the results, and a short page has a next one."""
    monkeypatch.setattr(answers, "POSITIONS", window)
    monkeypatch.setattr(answers, "WINDOWS_A_PAGE", 2)
    assert positions(pages(api, job, f"{query}&limit=2")) == wanted


def stream(api: Api, job: str, media_type: str, query: str = "") -> bytes:
    answer = api.reader.get(f"/v1/jobs/{job}/results?{query}", headers={"Accept": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith(media_type)
    assert job in answer.headers["Content-Disposition"]
    return answer.content


@pytest.mark.parametrize("window", [4, 10_000])
def test_a_stream_has_every_result(api: Api, job: str, monkeypatch, window: int) -> None:
    monkeypatch.setattr(answers, "POSITIONS", window)
    expected = pages(api, job, "limit=1000")
    lines = stream(api, job, "application/x-ndjson").splitlines()
    assert [json.loads(line) for line in lines] == expected
    table = list(csv.DictReader(io.StringIO(stream(api, job, "text/csv").decode())))
    assert [int(one["position"]) for one in table] == positions(expected)
    assert table[1]["label_1"] == "espresso"
    assert "'=bad" in {one["label_4"] for one in table}, "a spreadsheet must not see a formula"
    content = stream(api, job, "application/vnd.apache.parquet", "only=classified&label=tabby")
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    assert positions(rows) == [n for n in range(IMAGES) if n % 5 and not n % 2]
    assert {one["label_1"] for one in rows} == {"tabby"}


def test_a_job_without_results_gives_empty_streams(api: Api) -> None:
    job = api.submitter.post("/v1/jobs", json={"uris": ["https://a.org/1"]}).json()["id"]
    assert stream(api, job, "application/x-ndjson") == b""
    assert stream(api, job, "text/csv").startswith(b"position,uri,")
    assert (
        pq.read_table(io.BytesIO(stream(api, job, "application/vnd.apache.parquet"))).num_rows == 0
    )
    assert pages(api, job, "") == []


@pytest.mark.parametrize(
    ("query", "accept", "status", "detail"),
    [
        ("only=done", "*/*", 422, "only"),
        ("min_score=2", "*/*", 422, "min_score"),
        ("limit=0", "*/*", 422, "limit"),
        ("limit=5", "text/csv", 422, "pages of JSON"),
        ("error=http404", "*/*", 422, "http_404"),
        ("label=tabbby", "*/*", 422, "'tabby'"),
        ("only=failed&label=tabby", "*/*", 422, "no image is both"),
        ("cursor=%3F", "*/*", 422, "not a cursor"),
        ("", "image/png", 406, "application/x-ndjson"),
    ],
)
def test_bad_queries_are_refused(  # noqa: PLR0917
    api: Api, job: str, query: str, accept: str, status: int, detail: str
) -> None:
    answer = api.reader.get(f"/v1/jobs/{job}/results?{query}", headers={"Accept": accept})
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text


def test_the_client_reads_and_saves_them(api: Api, job: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("resnextq.job.PAGE", 7)
    mine = Client(api.url, api.reader.key).job(job)
    found = list(mine.results())
    assert [one.position for one in found] == list(range(IMAGES))
    assert (found[1].top5[0].label, found[1].error) == ("espresso", None)
    assert (found[0].top5, found[0].error and found[0].error.code) == ((), "timeout")
    assert [one.position for one in mine.results(label="tabby", min_score=0.7)] == [22, 24]
    saved = mine.to_parquet(tmp_path / "r.parquet", only="failed")
    assert pq.read_table(saved).num_rows == IMAGES // 5
    lines = mine.save(tmp_path / "r.jsonl").read_text().splitlines()
    assert len(lines) == IMAGES
    assert [(one.label, one.images) for one in mine.classes()] == [("tabby", 10), ("espresso", 10)]
