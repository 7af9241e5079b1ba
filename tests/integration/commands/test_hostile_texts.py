"""Texts from strangers (names, owners, servers' answers) control no terminal or spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, insert, select, update

from contract.check import Check
from contract.database.clock import db_now
from contract.database.tables import chunks, jobs, results
from producer.cli.output import tell
from producer.doctor import line, render
from producer.jobs.cells import cell
from producer.submit.submission import submit
from tests.servers.terminal import HOSTILE, on_a_terminal, steering

RESNEXTQ = Path(sys.executable).with_name("resnextq")
FORMULA = '=HYPERLINK("http://evil.example","cat")'


@pytest.fixture
def job(engine: Engine) -> str:
    """A job with hostile text in every field that a stranger can write."""
    job = submit(engine, [("http://a.example/0.jpg", HOSTILE), ("http://a.example/1.jpg", None)])
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        hostile = dict.fromkeys(("name", "owner", "model", "weights", "queue"), HOSTILE)
        errors = {HOSTILE: 1}
        connection.execute(update(jobs).values(errors=errors, failed=1, **hostile))
        connection.execute(update(chunks).values(fault=HOSTILE))
        row = {
            "job_number": number, "position": 0, "uri": "http://a.example/0.jpg", "ref": HOSTILE,
            "attempts": 1, "settled_at": db_now(), "error_code": "http_404",
            "error_detail": f"{FORMULA}{HOSTILE}", "final_uri": f"http://b.example/{HOSTILE}",
        }  # fmt: skip
        connection.execute(insert(results).values(row))
    return job


@pytest.mark.parametrize(
    "arguments",
    ["list", "status JOB", "results JOB", "results --format csv JOB", "retry --error HOSTILE JOB"],
)
def test_no_command_writes_a_strangers_control_characters_to_a_terminal(
    job: str, database_url: str, arguments: str
) -> None:
    words = [{"JOB": job, "HOSTILE": HOSTILE}.get(word, word) for word in arguments.split()]
    shown = on_a_terminal([RESNEXTQ, *words], {"RESNEXT_DATABASE_URL": database_url})
    assert steering(shown) == set()
    assert "gnp.exe" in shown
    assert r"\u202e" in shown


def run(database_url: str, *arguments: str) -> str:
    environment = os.environ | {"RESNEXT_DATABASE_URL": database_url}
    done = subprocess.run(
        [RESNEXTQ, *arguments], env=environment, capture_output=True, timeout=300, check=True
    )
    return done.stdout.decode()


def test_json_is_lossless_and_csv_has_no_formula(job: str, database_url: str) -> None:
    (record,) = map(json.loads, run(database_url, "results", job).splitlines())
    assert record["ref"] == HOSTILE
    assert record["error"]["detail"] == f"{FORMULA}{HOSTILE}"
    table = run(database_url, "results", job, "--format", "csv")
    assert steering(table) == set()
    (row,) = csv.DictReader(io.StringIO(table))
    assert row["error_detail"] == f"'{FORMULA}{cell(HOSTILE)}"
    assert (row["position"], row["uri"]) == ("0", "http://a.example/0.jpg")


RECORDS = [
    {"uri": f"http://a.example/{HOSTILE}", "error": {"code": "http_404", "detail": HOSTILE}},
    {"uri": HOSTILE, "top5": [{"label": HOSTILE, "class_id": 1, "score": 0.5}] * 2},
]
SHOWING = """
import json, sys
from producer.cli.render.answers import showing
with showing(as_json=False) as show:
    for record in json.loads(sys.argv[1]):
        show(record)
"""


def test_classify_writes_no_control_characters() -> None:
    command = [sys.executable, "-c", SHOWING, json.dumps(RECORDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    for shown in (done.stdout, on_a_terminal(command)):
        assert steering(shown) == set()
        assert shown.count("gnp.exe") >= 3
    assert len(done.stdout.splitlines()) == len(RECORDS)


def test_doctor_writes_no_control_characters() -> None:
    check = Check("fault", "warning", f"met {HOSTILE}\nand", f"read {HOSTILE}")
    console = Console(width=200, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        console.print(render(check))
    for shown in (line(check), capture.get()):
        assert steering(shown) == set()
        assert shown.count("gnp.exe") == 2
    assert "\n" not in line(check)


def test_a_message_keeps_its_lines_but_no_control_characters(capsys) -> None:
    tell(f"first {HOSTILE}\nsecond")
    told = capsys.readouterr().err
    assert steering(told) == set()
    assert told.startswith("resnextq: first ")
    assert told.endswith("\nsecond\n")


# Cells of a table


@pytest.mark.parametrize("sign", "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
def test_a_cell_that_looks_like_a_formula_gets_an_apostrophe(sign) -> None:
    assert cell(f"{sign}1+1").startswith("'")
    assert cell(f"{sign}1+1").endswith("1+1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("  =1+1", "'  =1+1"),
        ("\ufeff=1+1", "'\ufeff=1+1"),
        ("http://a.example/a;=1+1", "http://a.example/a;'=1+1"),
        ("a; @SUM(1);b", "a;' @SUM(1);b"),
        ("\t=1", r"'\t=1"),
        ("a\r\n=1", r"a\r\n=1"),
        ("\x1b[31m\x9b\u202e\u2028", r"\x1b[31m\x9b\u202e\u2028"),
        ("http://a.example/?a=1&b=-2;c", "http://a.example/?a=1&b=-2;c"),
        ("a-b+c=d@e", "a-b+c=d@e"),
        ("naïve 写真 👩\u200d🚀", "naïve 写真 👩\u200d🚀"),
        ("", ""),
    ],
)
def test_a_cell_escapes_formulas_and_control_characters_only(text, expected) -> None:
    assert cell(text) == expected


def test_a_log_line_is_escaped() -> None:
    """This holds in every process. tests/unit/contract/test_log.py has further tests."""
    from contract.log import FORMAT, LineFormatter

    record = logging.makeLogRecord({"msg": HOSTILE, "levelname": "INFO", "name": "worker"})
    assert steering(LineFormatter(FORMAT).format(record)) == set()
