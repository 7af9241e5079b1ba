"""`/`: the list of jobs, and the form for pasted, dropped or chosen input."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import chunk_uris
from contract.settings import Settings
from producer.api.uploads import INCOMING
from producer.pages.site import make_site
from tests.servers.api import Api, serve
from tests.servers.visitor import Visitor
from tests.settled import Answers, make_job, picture

ONE = "https://a.org/1"


def submitted(engine: Engine) -> list[tuple[str, str | None]]:
    """The URIs and ids of all jobs."""
    with reading(engine) as connection:
        rows = connection.execute(select(chunk_uris).order_by(chunk_uris.c.job_number)).all()
    return [pair for row in rows for pair in zip(row.uris, row.refs or [None] * 999, strict=False)]


def titles(html: str) -> list[str]:
    return re.findall(r'<td class="title"><a href="/jobs/[0-9a-f]{16}">([^<]*)</a>', html)


def test_a_pasted_list_becomes_a_job(visitor: Visitor, site: Api, engine: Engine) -> None:
    pasted = f"{ONE}\r\n\r\n# a comment\r\nhttps://a.org/2\tid-2\r\n"
    answer = visitor.send(
        "/", "/jobs", list=pasted, name=" two ", tags="team=red\r\nrun=7", priority="3"
    )
    (job,) = site.reader.get("/v1/jobs").json()["jobs"]
    assert answer.url == f"{site.url}/jobs/{job['id']}"
    assert (job["name"], job["total"], job["owner"]) == ("two", 2, "ann")
    assert (job["tags"], job["priority"]) == ({"team": "red", "run": "7"}, 3)
    assert submitted(engine) == [(ONE, None), ("https://a.org/2", "id-2")]


def parquet(folder: Path) -> bytes:
    path = folder / "list.parquet"
    pq.write_table(pa.table({"n": [1], "link": [ONE]}), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "column"),
    [
        (b"https://a.org/1\n", ""),
        (b"n,url\n1,https://a.org/1\n", ""),
        (b"n,link\n1,https://a.org/1\n", "link"),
        (b'{"url": "https://a.org/1"}\n', ""),
        (parquet, "link"),
    ],
)
def test_a_chosen_list_becomes_a_job(
    visitor: Visitor, engine: Engine, tmp_path: Path, content, column: str
) -> None:
    given = content(tmp_path) if callable(content) else content
    answer = visitor.send("/", "/jobs", column=column, files={"files": ("list", given)})
    assert "/jobs/" in answer.url
    assert submitted(engine) == [(ONE, None)]


def test_a_chosen_list_keeps_its_own_ids(visitor: Visitor, engine: Engine) -> None:
    listed = b"sku,url\nred-7,https://a.org/1\n"
    visitor.send("/", "/jobs", id_column="sku", files={"files": ("list", listed)})
    assert submitted(engine) == [(ONE, "red-7")]


def test_pictures_become_a_job(visitor: Visitor, engine: Engine, settings: Settings) -> None:
    """Pictures are recognised by their bytes, not by their names."""
    one, two = picture(), picture(size=64)
    files = [("files", ("kitten.jpg", one)), ("files", ("../../x<b>.txt", two))]
    answer = visitor.send("/", "/jobs", files=files)
    assert "/jobs/" in answer.url
    found = submitted(engine)
    assert [ref for _, ref in found] == ["kitten.jpg", "../../x<b>.txt"]
    kept = [Path(unquote(urlsplit(uri).path)) for uri, _ in found]
    assert [path.read_bytes() for path in kept] == [one, two]
    assert all(path.is_relative_to(settings.uploads or "") for path in kept)
    assert list((Path(settings.uploads or "") / INCOMING).iterdir()) == []
    assert "x&lt;b&gt;.txt" not in answer.text  # the image has no answer yet


def test_pictures_and_lists_can_be_sent_together(visitor: Visitor, engine: Engine) -> None:
    files = [("files", ("a.txt", b"https://a.org/2\n")), ("files", ("k.jpg", picture()))]
    visitor.send("/", "/jobs", list=ONE, files=files)
    assert [uri.partition(":")[0] for uri, _ in submitted(engine)] == ["file", "https", "https"]


def test_pictures_are_refused_if_uploads_are_off(engine: Engine, settings: Settings) -> None:
    for site in serve(engine, settings.model_copy(update={"uploads": None}), make_site):
        visitor = Visitor(site.url)
        visitor.log_in(site.submitter.key)
        assert "Drop a list here" in visitor.get("/").text
        answer = visitor.send("/", "/jobs", files={"files": ("k.jpg", picture())})
        assert (answer.status_code, "RESNEXT_UPLOADS" in answer.text) == (422, True)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({}, "nothing to classify"),
        ({"list": "ftp://a.org/1"}, "ftp"),
        ({"list": f"{ONE}\nnonsense"}, "line 2"),
        ({"list": ONE, "tags": "red"}, "Write key=value"),
        ({"list": ONE, "priority": "high"}, "priority"),
        ({"list": ONE, "priority": "5000"}, "priority"),
        ({"list": ONE, "name": "a\x01b"}, "name"),
        ({"files": {"files": ("a.bin", b"\x00\x01\x02\x03")}}, "a.bin"),
        ({"files": {"files": ("a.csv", b"n,m\n1,2\n")}}, "a.csv"),
    ],
)
def test_bad_input_is_explained_and_can_be_corrected(
    visitor: Visitor, site: Api, sent: dict[str, object], message: str
) -> None:
    answer = visitor.send("/", "/jobs", **sent)
    assert answer.status_code == 422
    assert message in answer.text
    assert str(sent.get("list", "")) in answer.text.replace("\r", "")
    assert site.reader.get("/v1/jobs").json()["jobs"] == []


def test_a_bad_line_can_be_skipped(visitor: Visitor, engine: Engine) -> None:
    visitor.send("/", "/jobs", list=f"{ONE}\nnonsense\n{ONE}", on_invalid="skip", unique="true")
    assert submitted(engine) == [(ONE, None)]


def test_a_file_that_is_too_large_is_refused(engine: Engine, settings: Settings) -> None:
    narrow = settings.model_copy(update={"api_body_bytes": 100_000})
    for site in serve(engine, narrow, make_site):
        visitor = Visitor(site.url)
        visitor.log_in(site.submitter.key)
        answer = visitor.send(
            "/", "/jobs", files={"files": ("a.txt", b"https://a.org/1\n" * 50_000)}
        )
        assert (answer.status_code, "100,000 bytes" in answer.text) == (413, True)
        assert visitor.get("/").status_code == 200


# The list of jobs


def test_an_empty_list_of_jobs_has_a_hint(visitor: Visitor, reader: Visitor) -> None:
    assert "No jobs yet. Drop pictures or a list above" in visitor.get("/").text
    assert "No jobs yet.</p>" in reader.get("/").text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["c 100%", "b", "a"]),
        ("?state=running", ["b"]),
        ("?name=100%25", ["c 100%"]),
        ("?tag=team", ["b", "a"]),
        ("?tag=team%3Dred", ["a"]),
        ("?state=nonsense", ["c 100%", "b", "a"]),
        ("?name=nobody", []),
    ],
)
def test_jobs_are_filtered(
    visitor: Visitor, engine: Engine, query: str, expected: list[str]
) -> None:
    make_job(engine, Answers(name="a", tags={"team": "red"}))
    make_job(engine, Answers(name="b", settled=3, tags={"team": "blue"}))
    make_job(engine, Answers(name="c 100%"))
    page = visitor.get(f"/{query}").text
    assert titles(page) == expected
    assert ("No job matches" in page) == (not expected)
    assert titles(visitor.get(f"/{query or '?'}&part=jobs").text) == expected


def test_searching_for_an_id_opens_its_job(visitor: Visitor, engine: Engine) -> None:
    job = make_job(engine)
    assert visitor.get(f"/?name={job}").url.endswith(f"/jobs/{job}")


def test_the_list_has_pages(visitor: Visitor, engine: Engine) -> None:
    for n in range(30):
        make_job(engine, Answers(name=f"job {n}", total=1, pictures=0))
    first = visitor.get("/").text
    (older,) = re.findall(r'<a href="(/\?[^"]*cursor=[^"]*)">Older', first)
    second = visitor.get(older.replace("&amp;", "&")).text
    assert titles(first) + titles(second) == [f"job {n}" for n in reversed(range(30))]
    assert "Older</a>" not in second
    assert visitor.get("/?cursor=nonsense").status_code == 422


def test_without_scripts_a_changing_list_is_reloaded(visitor: Visitor, engine: Engine) -> None:
    make_job(engine)
    assert 'http-equiv="refresh"' not in visitor.get("/").text
    make_job(engine, Answers(settled=3))
    assert '<noscript><meta http-equiv="refresh"' in visitor.get("/").text
