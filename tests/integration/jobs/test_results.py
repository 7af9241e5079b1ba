"""What `results` prints, on both databases."""

import csv
import io
import json
import os
import struct
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy import Engine, insert, select

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, labels, models, results
from contract.errors import UnavailableError
from contract.record import shortest
from contract.settings import Settings
from producer.jobs.export.sinks import target_of
from producer.jobs.export.table import COLUMNS
from producer.jobs.export.window import POSITIONS
from producer.jobs.job import find_job
from producer.jobs.results import read_results
from producer.submit.submission import submit

RESNEXTQ = Path(sys.executable).with_name("resnextq")
SCORES = (0.7, 0.1, 0.05, 1e-9, 0.0)


def run(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, "results", *arguments],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def float32(value: float) -> float:
    """The value as a worker stores it."""
    return struct.unpack("f", struct.pack("f", value))[0]


def classified(position: int, **more) -> dict[str, object]:
    return {
        "position": position,
        "uri": f"http://a.org/{position}",
        "attempts": 1,
        "model_number": 1,
        "precision": "bf16",
        "orientation": "exif",
        **{f"class_{rank}": rank + 9 for rank in range(1, 6)},
        **{f"score_{rank}": float32(score) for rank, score in enumerate(SCORES, start=1)},
    } | more


def failed(position: int, code: str, **more) -> dict[str, object]:
    row = {"position": position, "uri": f"http://a.org/{position}", "attempts": 3}
    return row | {"error_code": code, "error_detail": 'why, "exactly"\n'} | more


ROWS = [
    failed(2, "http_404"),
    classified(
        0,
        ref="mine",
        final_uri="https://b.org/0",
        bytes=7,
        sha256="ab" * 32,
        format="JPEG",
        width=3,
        height=4,
    ),
    classified(
        1, class_3=None, score_3=None, class_4=None, score_4=None, class_5=None, score_5=None
    ),
    failed(3, "not_finite", model_number=1, precision="fp16", error_detail=None),
]


def store(engine: Engine, job: str, rows: list[dict[str, object]]) -> None:
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        for row in rows:
            connection.execute(
                insert(results).values(job_number=number, settled_at=db_now(), **row)
            )


@pytest.fixture
def job(engine: Engine) -> str:
    """A job of six images with four results, which were stored out of order."""
    with engine.begin() as connection:
        name = {"model": "m", "weights": "w", "weights_sha256": "00"}
        connection.execute(insert(models).values(number=1, title="m/w", **name))
        tabby = [{"model_number": 1, "class_id": n + 9, "label": f"cat {n}"} for n in range(1, 6)]
        connection.execute(insert(labels), tabby)
    job = submit(engine, ((f"http://a.org/{n}", None) for n in range(6)))
    store(engine, job, ROWS)
    return job


def writing(path: Path) -> AbstractContextManager[BinaryIO]:
    target = target_of(str(path), Settings())
    return target.place.writing(target.name or "x")


def lines(engine: Engine, job: str, only: str | None = None) -> list[dict[str, object]]:
    with reading(engine) as connection:
        found = find_job(connection, job)
    return list(read_results(engine, found, only))


def test_each_result_has_a_line_in_order_of_position(
    engine: Engine, database_url: str, job: str
) -> None:
    done = run(database_url, job)
    assert done.returncode == 0, done.stderr
    first, second, third, fourth = (json.loads(line) for line in done.stdout.splitlines())
    assert first == {
        "position": 0,
        "uri": "http://a.org/0",
        "ref": "mine",
        "status": "classified",
        "top5": [
            {"label": "cat 1", "class_id": 10, "score": 0.7},
            {"label": "cat 2", "class_id": 11, "score": 0.1},
            {"label": "cat 3", "class_id": 12, "score": 0.05},
            {"label": "cat 4", "class_id": 13, "score": 1e-9},
            {"label": "cat 5", "class_id": 14, "score": 0.0},
        ],
        "model": "m/w",
        "attempts": 1,
        "precision": "bf16",
        "orientation": "exif",
        "final_uri": "https://b.org/0",
        "bytes": 7,
        "sha256": "ab" * 32,
        "format": "JPEG",
        "width": 3,
        "height": 4,
    }
    assert "ref" not in second
    assert len(second["top5"]) == 2
    assert third == {
        "position": 2,
        "uri": "http://a.org/2",
        "status": "failed",
        "error": {"code": "http_404", "detail": 'why, "exactly"\n'},
        "model": "resnext101_32x4d/nvidia",
        "attempts": 3,
    }
    assert fourth["error"] == {"code": "not_finite", "detail": ""}
    assert (fourth["model"], fourth["precision"]) == ("m/w", "fp16")
    # This test stores no tallies.
    assert done.stderr == "resnextq: 6 of 6 images are not finished yet\n"


def test_only_classified_or_only_failed_images_are_printed(engine: Engine, job: str) -> None:
    assert [line["position"] for line in lines(engine, job, "classified")] == [0, 1]
    assert [line["position"] for line in lines(engine, job, "failed")] == [2, 3]


def test_results_of_other_jobs_are_not_printed(engine: Engine, job: str) -> None:
    other = submit(engine, [("http://a.org/", None)])
    store(engine, other, [classified(0)])
    assert len(lines(engine, other)) == 1
    assert len(lines(engine, job)) == 4


def test_every_window_is_read(engine: Engine) -> None:
    images = 2 * POSITIONS + 1
    job = submit(engine, ((f"http://a.org/{n}", None) for n in range(images)))
    ends = [0, POSITIONS - 1, POSITIONS, images - 1]
    store(engine, job, [failed(position, "dns") for position in ends])
    assert [line["position"] for line in lines(engine, job)] == ends


def test_csv_has_the_documented_columns(database_url: str, engine: Engine, job: str) -> None:
    done = run(database_url, job, "--format", "csv", "--only", "failed")
    assert run(database_url, job, "--format", "csv").stdout.startswith(",".join(COLUMNS))
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["position"] for row in table] == ["2", "3"]
    assert table[0]["error_detail"] == r'why, "exactly"\n'
    assert table[0]["label_1"] == ""
    whole = list(csv.DictReader(io.StringIO(run(database_url, job, "--format", "csv").stdout)))
    assert whole[0]["ref"] == "mine"
    assert (whole[0]["label_2"], whole[0]["class_2"], whole[0]["score_2"]) == ("cat 2", "11", "0.1")


def test_a_file_appears_only_when_complete(
    engine: Engine, database_url: str, job: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    done = run(database_url, job, "--output", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "4 images in" in done.stderr
    before = path.read_text()
    assert len(before.splitlines()) == 4

    def break_off() -> None:
        with writing(path) as file:
            file.write(b"half")
            file.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_link_is_written_through_and_a_device_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with writing(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "target").read_text() == "x"
    assert (tmp_path / "link").is_symlink()
    with writing(Path("/dev/null")) as file:
        file.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "folder.csv"
    with pytest.raises(UnavailableError, match=str(path)), writing(path):
        pass


@pytest.mark.parametrize(
    "digits", [0.1, 0.3333333333, 1e-7, 0.99999994, 1.0, 5.960464477539063e-08]
)
def test_a_score_is_the_shortest_number_with_the_stored_value(digits: float) -> None:
    stored = float32(digits)
    assert float32(shortest(stored)) == stored
    assert len(repr(shortest(stored))) <= len(repr(stored))
    assert shortest(float32(0.1)) == 0.1
