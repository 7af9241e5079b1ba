"""`resnextq report`: a job as one file of limited size, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import results
from producer.jobs.job import find_job
from producer.pages.report import make_report
from tests.markup import read_markup
from tests.settled import Answers, make_job

RESNEXTQ = Path(sys.executable).with_name("resnextq")
MOST_BYTES = 5_000_000


def report(engine: Engine, job: str) -> str:
    with reading(engine) as connection:
        found = find_job(connection, job)
    return make_report(engine, found, 30.0)


def run(database_url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, "report", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
        env={"RESNEXT_DATABASE_URL": database_url, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_command_writes_a_self_contained_file(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    job = make_job(engine, Answers(total=40, failed=[3, 4], tags={"team": "red"}))
    file = tmp_path / "pets.html"
    done = run(database_url, job[:8] + job[8:], "--output", file)
    assert (done.returncode, done.stderr) == (0, f"resnextq: job {job} was written to {file}\n")
    html = file.read_text()
    found = read_markup(html)
    tags = {tag for tag, *_ in found.shape}
    assert tags & {"script", "form", "input", "button", "link", "iframe", "object"} == set()
    assert {link.partition(",")[0] for link in found.links} == {"data:image/jpeg;base64"}
    assert len(found.links) == 38
    for words in ("pets", "team=red", "http_404", "tabby", "There is nothing at this address."):
        assert words in found.text, words


def test_its_policy_permits_only_its_own_style_and_pictures(engine: Engine) -> None:
    html = report(engine, make_job(engine))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    (style,) = re.findall(r"<style>(.*)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert " style=" not in html
    assert "url(" not in style


def test_its_size_has_a_limit(engine: Engine) -> None:
    """The job has the most pictures and the longest texts that are possible."""
    long = "x" * 8_000
    wanted = Answers(total=600, pictures=600, failed=range(0, 600, 7), text=long)
    assert len(report(engine, make_job(engine, wanted)).encode()) < MOST_BYTES


def test_a_job_without_answers_has_a_report(engine: Engine) -> None:
    html = report(engine, make_job(engine, Answers(settled=0)))
    assert "No answers yet." in html


@pytest.mark.parametrize("where", [".", "https://a.org/x.html"])
def test_an_output_that_is_not_a_file_is_refused(
    engine: Engine, database_url: str, where: str
) -> None:
    done = run(database_url, make_job(engine), "--output", where)
    assert (done.returncode, "--output is" in done.stderr) == (2, True)


def test_label_studio_gets_tasks_with_predictions(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    job = make_job(engine, Answers(total=5, failed=[1]))
    file = tmp_path / "tasks.json"
    done = run(database_url, job, "--format", "label-studio", "--output", file)
    assert done.returncode == 0, done.stderr
    tasks = json.loads(file.read_text())
    assert [task["data"]["position"] for task in tasks] == [0, 2, 3, 4]
    first = tasks[0]
    assert first["data"]["image"].startswith("https://")
    assert first["data"]["ref"] == "item-0"
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "resnext101_32x4d/nvidia"
    best = first["data"]["top5"][0]
    assert prediction["score"] == best["score"]
    (result,) = prediction["result"]
    assert result == {
        "from_name": "label", "to_name": "image", "type": "choices",
        "value": {"choices": [best["label"]]},
    }  # fmt: skip


def test_without_answers_label_studio_gets_an_empty_list(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    job = make_job(engine, Answers(settled=0))
    run(database_url, job, "--format", "label-studio", "--output", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == []


def test_fiftyone_gets_an_archive_of_thumbnails_with_five_labels_each(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    job = make_job(engine, Answers(total=5, failed=[1]))
    file = tmp_path / "pets.zip"
    done = run(database_url, job, "--format", "fiftyone", "--output", file)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        labels = json.loads(archive.read("labels.json"))["labels"]
        pictures = {name for name in archive.namelist() if name != "labels.json"}
        sizes = {Image.open(archive.open(name)).format for name in pictures}
    assert pictures == {f"data/{position}.jpg" for position in labels}
    assert (set(labels), sizes) == ({"0", "2", "3", "4"}, {"JPEG"})
    assert [len(of_one) for of_one in labels.values()] == [5, 5, 5, 5]
    first = labels["0"][0]
    assert first["attributes"]["ref"] == "item-0"
    with reading(engine) as connection:
        row = connection.execute(
            select(results.c.score_1, results.c.uri).where(results.c.position == 0)
        ).one()
    assert (first["confidence"], first["attributes"]["uri"]) == tuple(row)
