"""Options that `results` and `compare` refuse, with advice, and the progress bar."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select
from typer.testing import CliRunner

from contract.database.clock import db_now
from contract.database.tables import jobs, labels, models, results
from contract.settings import Settings
from producer.cli.main import app
from producer.submit.submission import submit
from tests.servers.terminal import on_a_terminal

RESNEXTQ = Path(sys.executable).with_name("resnextq")

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def job(engine: Engine) -> str:
    settings = Settings()
    job = submit(engine, [("http://a.example/0", None)])
    with engine.begin() as connection:
        name = {"title": "m/w", "model": settings.model, "weights": settings.weights}
        connection.execute(insert(models).values(number=1, **name, weights_sha256="00"))
        connection.execute(insert(labels).values(model_number=1, class_id=281, label="tabby"))
        row = {
            "job_number": connection.scalar(select(jobs.c.number)), "position": 0, "attempts": 1,
            "uri": "http://a.example/0", "settled_at": db_now(), "model_number": 1,
            "class_1": 281, "score_1": 0.5,
        }  # fmt: skip
        connection.execute(insert(results).values(row))
    return job


# Arguments, the exit status, and words on standard error.
REFUSED = [
    ("--format xml", 2, "'xml' is not one of"),
    ("--only some", 2, "'some' is not one of"),
    ("--min-score 75", 2, "--min-score must be from 0 to 1, got 75. Did you mean 0.75?"),
    ("--min-score -1", 2, "--min-score must be from 0 to 1, got -1."),
    ("--min-score nan", 2, "--min-score must be from 0 to 1, got nan."),
    ("--min-score high", 2, "Invalid value for '--min-score': Input should be a valid number"),
    ("--after -1", 2, "--after must be the position of an image, 0 or more, got -1."),
    ("--after x", 2, "Invalid value for '--after': Input should be a valid integer"),
    ("--error http404", 2, "There is no error code 'http404'. Did you mean http_404?"),
    ("--label tabbi", 2, "is called 'tabbi'. Did you mean 'tabby'?"),
    ("--label tab", 2, "is called 'tab'. Did you mean 'tabby'?"),
    (
        "--only failed --label tabby",
        2,
        "`--label` keeps classified images and `--only failed` failed",
    ),
    (
        "--only classified --error dns",
        2,
        "`--only classified` keeps classified images and `--error`",
    ),
    ("--error dns --min-score 0.5", 2, "no image is both. Leave one of them out."),
    ("--keep a", 2, "--keep, --column and --id-column need --with INPUT. Add it, or leave"),
    ("--with no-such.csv", 2, "'no-such.csv' does not exist."),
    ("--with here.csv --keep size", 2, "csv, line 1: there is no column 'size', which --keep"),
    ("--with here.csv --column link", 2, "csv, line 1: there is no column 'link', which --column"),
    ("--with bytes", 2, "bytes begins as UTF-16, but the rest is not"),
    ("--with -", 2, "--with reads its input twice, but - can be read only once. Name a file."),
    ("--with here.csv --follow", 2, "--follow writes images as they finish"),
    ("--output out/ --follow", 2, "Give a file, or leave out --follow."),
    ("--output no/such/folder.csv", 3, "cannot be written: No such file or directory."),
    ("--output ftp://a/b", 2, "--output is 'ftp://a/b'. Write a path, s3://bucket/key or gs://"),
    ("--output s3://", 2, "--output is 's3://': no valid bucket name; write s3://bucket/key."),
    ("--output s3://abc/a?b", 2, "a ? or # in the key; write %3F or %23."),
]


@pytest.fixture
def here(database_url: str, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The job's id. The current folder has a list of its images and a file that is not text."""
    (tmp_path / "here.csv").write_text("uri,caption\nhttp://a.example/0,cat\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNEXT_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    return job


@on_sqlite
@pytest.mark.parametrize(("arguments", "status", "words"), REFUSED)
def test_bad_options_are_refused_with_advice(
    here: str, arguments: str, status: int, words: str
) -> None:
    done = CliRunner().invoke(app, ["results", here, *arguments.split()])
    shown = re.sub(r"[│╭╮╰╯─\s]+", " ", done.stderr)
    assert (done.exit_code, words in shown) == (status, True), done.stderr
    assert done.stdout == ""


@on_sqlite
def test_progress_is_shown_on_a_terminal_and_not_in_a_pipe(
    database_url: str, job: str, tmp_path: Path
) -> None:
    command = [RESNEXTQ, "results", job, "--output", tmp_path / "out.csv", "--format", "csv"]
    environment = {"RESNEXT_DATABASE_URL": database_url}
    shown = on_a_terminal(command, environment)
    assert "exporting" in shown
    assert "1 image in" in shown
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "exporting" not in done.stderr


@on_sqlite
def test_a_pipe_on_a_terminal_gets_no_progress_between_its_lines(
    database_url: str, job: str
) -> None:
    shell = f"{shlex.quote(str(RESNEXTQ))} results {job} --format csv | head"
    shown = on_a_terminal(["sh", "-c", shell], {"RESNEXT_DATABASE_URL": database_url})
    assert shown.startswith("position,uri,")


@on_sqlite
def test_a_terminal_gets_a_table_and_a_pipe_json(database_url: str, job: str) -> None:
    command = [RESNEXTQ, "results", job]
    environment = {"RESNEXT_DATABASE_URL": database_url}
    shown = on_a_terminal(command, environment)
    assert "{" not in shown
    piped = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    records = [json.loads(line) for line in piped.stdout.splitlines()]
    assert records
    for record in records:
        answer = record["error"]["code"] if "error" in record else record["top5"][0]["label"]
        assert answer in shown
    assert "{" in on_a_terminal([*command, "--format", "jsonl"], environment)


@on_sqlite
def test_parquet_is_not_printed_on_a_terminal(database_url: str, job: str) -> None:
    command = [RESNEXTQ, "results", job, "--format", "parquet"]
    assert "Give --output FILE" in on_a_terminal(command, {"RESNEXT_DATABASE_URL": database_url})
