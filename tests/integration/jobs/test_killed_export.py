"""A folder export that is killed (SIGKILL) and repeated gives the same files as a complete one."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, insert, select

from contract.database.clock import db_now
from contract.database.tables import jobs, labels, models, results
from contract.settings import Settings
from producer.jobs.export.sinks import Target, target_of
from producer.submit.submission import submit

IMAGES = 100
FORMATS = ("jsonl", "csv", "parquet")
# The command with short windows and parts. It kills itself at some moment of the third part.
PROGRAM = """
import os, signal, sys
from producer.cli.main import main
from producer.jobs.export import export, folder
from producer.jobs.export.window import Windows

folder.POSITIONS_A_PART, export.POSITIONS = 20, 7
moment = sys.argv.pop(1)
read, note = Windows.read, folder.Parts.note


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def read_or_die(self, start, stop):
    if moment == "in a part" and start == 54:
        die()
    return read(self, start, stop)


def note_or_die(self, part, rows):
    if moment == "before a part is noted" and part.start == 40:
        die()
    note(self, part, rows)
    if moment == "between parts" and part.start == 40:
        die()


Windows.read, folder.Parts.note = read_or_die, note_or_die
main()
"""
DONE_BEFORE = {"in a part": 2, "before a part is noted": 3, "between parts": 3}
KEPT = {"in a part": 2, "before a part is noted": 2, "between parts": 3}


@pytest.fixture
def job(engine: Engine) -> str:
    """A job in which every seventh image has failed, and some are unfinished."""
    settings = Settings()
    name = {"title": "m/w", "model": settings.model, "weights": settings.weights}
    job = submit(engine, [(f"http://a.example/{n}", f"id-{n}") for n in range(IMAGES)])
    with engine.begin() as connection:
        connection.execute(insert(models).values(number=1, **name, weights_sha256="00"))
        connection.execute(insert(labels).values(model_number=1, class_id=281, label="tabby"))
        number = connection.scalar(select(jobs.c.number))
        for n in range(IMAGES):
            if n % 11 == 3:
                continue
            answer: dict[str, Any] = {"model_number": 1, "class_1": 281, "score_1": n / IMAGES}
            if n % 7 == 6:
                answer = {"error_code": "timeout", "error_detail": "why"}
            row = {"job_number": number, "position": n, "uri": f"http://a.example/{n}"}
            row |= {"ref": f"id-{n}", "attempts": 1, "settled_at": db_now()}
            connection.execute(insert(results).values(row | answer))
    return job


def export(
    database_url: str, job: str, form: str, folder: Path, moment: str = "never"
) -> subprocess.CompletedProcess[str]:
    command = ("results", job, "--format", form, "--output", f"{folder}/")
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, moment, *command],
        env={"RESNEXT_DATABASE_URL": database_url, "HOME": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


@pytest.mark.parametrize("moment", DONE_BEFORE)
@pytest.mark.parametrize("form", FORMATS)
def test_a_killed_export_is_resumed_with_equal_content(
    database_url: str, job: str, tmp_path: Path, form: str, moment: str
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert export(database_url, job, form, whole).returncode == 0
    killed = export(database_url, job, form, resumed, moment)
    assert killed.returncode == -signal.SIGKILL
    there = parts_of(resumed)
    assert len(there) == DONE_BEFORE[moment]
    if form == "parquet":  # a reader of the folder sees only complete parts
        table = pyarrow.dataset.dataset(resumed).to_table()
        assert table.num_rows == sum(pq.read_metadata(resumed / one).num_rows for one in there)
    again = export(database_url, job, form, resumed)
    assert again.returncode == 0, again.stderr
    assert f"{KEPT[moment]} of the parts were already there" in again.stderr
    assert parts_of(resumed) == parts_of(whole)
    assert len(parts_of(whole)) == 5
    assert sorted(path.name for path in resumed.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def test_the_next_export_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """The file of an export that still runs is left alone."""
    target = target_of(str(tmp_path / "out.csv"), Settings())
    assert isinstance(target, Target)
    for name in (".out.csv.0123.part", ".out.csv.4567.part", ".other.csv.89ab.part", "out.part"):
        (tmp_path / name).write_text("half")
    with (tmp_path / ".out.csv.4567.part").open("rb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        with target.place.writing(target.name) as file:
            file.write(b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        ".other.csv.89ab.part": "half", ".out.csv.4567.part": "half", "out.part": "half",
        "out.csv": "whole",
    }  # fmt: skip
