"""`results --with` puts the submitted columns beside the answers, for every kind of input."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, func, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, chunks, jobs, labels, models, results
from contract.remaining import encode
from contract.served import note_served
from contract.settings import Settings
from producer.submit.sources.opening import zstd
from tests import lists
from tests.servers.objects import serving_s3

RESNEXTQ = Path(sys.executable).with_name("resnextq")
Run = Callable[..., subprocess.CompletedProcess[str]]
PACKERS = {".gz": gzip.compress, ".zst": zstd.compress}
ROWS = [(f"id-{n}", f"https://a.example/{n}.jpg", f'=cat, "{n}"') for n in range(25)]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RESNEXTQ, *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url} | environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=tmp_path,
        )

    return run_command


@pytest.fixture
def settle(engine: Engine) -> Callable[[str], None]:
    """A function that stores an answer for each image without one. Every fifth image fails."""
    with engine.begin() as connection:
        name = {"title": "m/w", "model": "m", "weights": "w", "weights_sha256": "00"}
        connection.execute(insert(models).values(number=1, **name))
        connection.execute(insert(labels).values(model_number=1, class_id=281, label="tabby"))

    def store_answers(job: str) -> None:
        with engine.begin() as connection:
            number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
            mine = results.c.job_number == number
            there = set(connection.scalars(select(results.c.position).where(mine)))
            of_job = select(chunk_uris).where(chunk_uris.c.job_number == number)
            pieces = connection.execute(of_job.order_by(chunk_uris.c.chunk)).all()
            images = [
                pair
                for piece in pieces
                for pair in zip(piece.uris, piece.refs or [None] * len(piece.uris), strict=True)
            ]
            for position, (uri, ref) in enumerate(images):
                if position in there:
                    continue
                answer: dict[str, Any] = {"model_number": 1, "class_1": 281, "score_1": 0.5}
                if position % 5 == 4:
                    answer = {"error_code": "timeout"}
                row = {"job_number": number, "position": position, "uri": uri, "ref": ref}
                row |= {"attempts": 1, "settled_at": db_now()}
                connection.execute(insert(results).values(row | answer))
            done = {"state": "done", "remaining": encode([]), "remaining_images": 0}
            connection.execute(update(chunks).where(chunks.c.job_number == number).values(**done))
            failed = connection.scalar(
                select(func.count()).where(mine, results.c.error_code.is_not(None))
            )
            ended = {"failed": failed, "classified": len(images) - failed, "state": "completed"}
            connection.execute(update(jobs).where(jobs.c.number == number).values(**ended))

    return store_answers


def submitted(run: Run, *arguments: str, **environment: str) -> str:
    done = run("submit", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answers(run: Run, job: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    done = run("results", job, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write(folder: Path, layout: str) -> str:
    """Write a list of `ROWS`, compressed if the layout says so, and return its file name."""
    plain, _, packing = layout.partition(".")
    path = lists.write(folder / f"list.{plain}", plain, ROWS)
    if not packing:
        return path.name
    packed = path.with_name(f"{path.name}.{packing}")
    packed.write_bytes(PACKERS[f".{packing}"](path.read_bytes()))
    return packed.name


@on_sqlite
@pytest.mark.parametrize(
    "layout", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "jsonl.zst", "json.gz"]
)
def test_every_list_format_comes_back_beside_its_answers(
    run: Run, settle: Callable[[str], None], tmp_path: Path, layout: str
) -> None:
    name = write(tmp_path, layout)
    job = submitted(run, name, "--id-column", "id")
    settle(job)
    found = answers(run, job, "--with", name, "--id-column", "id")
    assert [(one["ref"], one["uri"], one["input"]["caption"]) for one in found] == ROWS
    assert {tuple(one["input"]) for one in found} == {("caption",)}
    kept = answers(run, job, "--with", name, "--id-column", "id", "--keep", "id, url,id")
    assert [(one["input"]["id"], one["input"]["url"]) for one in kept] == [
        (ref, uri) for ref, uri, _ in ROWS
    ]


def test_several_sources_are_one_input_with_all_their_columns(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "a1.csv").write_text("url,size\nhttps://a.org/1,big\n")
    (tmp_path / "a2.csv").write_text("uri,colour\nhttps://a.org/2,red\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    sources = ("a*.csv", "https://a.org/3.jpg", "photos")
    roots = {"RESNEXT_FILE_ROOTS": str(tmp_path)}
    job = submitted(run, *sources, **roots)
    settle(job)
    options = [text for source in sources for text in ("--with", source)]
    assert [one["input"] for one in answers(run, job, *options, **roots)] == [
        {"size": "big", "colour": None},
        {"size": None, "colour": "red"},
        {"size": None, "colour": None},
        {"size": None, "colour": None},
    ]
    missing = run("results", job, *options, "--keep", "size", **roots)
    assert missing.returncode == 2
    assert "a2.csv, line 1: there is no column 'size', which --keep names." in missing.stderr


def test_input_may_name_the_files_that_up_permits(
    run: Run, settle: Callable[[str], None], database_url: str, tmp_path: Path
) -> None:
    """`submit` took the folder from `up`, so `--with` must skip the same lines as it did."""
    lines = [f"file://{tmp_path}/{name}.jpg,{name}\n" for name in ("cat", "dog", "owl")]
    lines.insert(1, "ftp://a.org/x.jpg,no\n")
    (tmp_path / "list.csv").write_text("".join(["url,name\n", *lines]))
    home = tmp_path / "home"
    home.mkdir()
    note_served(Settings(home=home, database_url=database_url, file_roots=(tmp_path,)))
    second = {"RESNEXT_HOME": str(home)}
    job = submitted(run, "list.csv", "--on-invalid", "skip", **second)
    settle(job)
    found = answers(run, job, "--with", "list.csv", **second)
    assert [one["input"] for one in found] == [{"name": name} for name in ("cat", "dog", "owl")]


@on_sqlite
def test_input_in_an_object_store_is_read_there(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    with serving_s3() as s3:
        s3.make_bucket("bucket")
        for name in ("lists/1.csv", "lists/2.parquet"):
            path = lists.write(tmp_path / "one", name.rpartition(".")[2], ROWS)
            s3.put("bucket", name, path.read_bytes())
        environment = {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "RESNEXT_OBJECT_STORES": "s3",
            "RESNEXT_S3_ENDPOINT": s3.endpoint,
        }  # fmt: skip
        job = submitted(run, "s3://bucket/lists/*", **environment)
        settle(job)
        found = answers(run, job, "--with", "s3://bucket/lists/*", **environment)
    assert [one["input"] for one in found] == [
        {"id": ref, "caption": caption} for ref, _, caption in [*ROWS, *ROWS]
    ]


TABLE = """url,id,caption
http://a.org/0,zero,c0
ftp://a.org/1,one,c1
http://a.org/2
,three,c3
http://a.org/0,four,c4
http://a.org/2,five,c5
http://a.org/6,six,c6
ftp://a.org/1,seven,c7
http://a.org/8,eight,c8
http://a.org/0,nine,c9
"""
VALID = {"zero": "c0", "four": "c4", "five": "c5", "six": "c6", "eight": "c8", "nine": "c9"}
FIRST = {ref: caption for ref, caption in VALID.items() if ref not in ("four", "nine")}
INVALID = {"one": "c1", "": None, "three": "c3", "seven": "c7"}


@on_sqlite
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("skip",), VALID),
        (("record",), VALID | INVALID),
        (("skip", "--unique"), FIRST),
        (("record", "--unique"), FIRST | INVALID),
        (("skip", "--sample", "3"), None),
        (("record", "--sample", "6"), None),
        (("skip", "--unique", "--sample", "2"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_rows_match_their_images_whatever_the_submit_left_out(
    run: Run,
    settle: Callable[[str], None],
    tmp_path: Path,
    options: tuple[str, ...],
    expected: dict[str, str | None] | None,
) -> None:
    (tmp_path / "list.csv").write_text(TABLE)
    job = submitted(run, "list.csv", "--id-column", "id", "--on-invalid", *options)
    settle(job)
    found = answers(run, job, "--with", "list.csv", "--id-column", "id")
    captions = {one.get("ref", ""): one["input"]["caption"] for one in found}
    assert captions.items() <= (VALID | INVALID).items()
    if expected is None:
        assert len(found) == int(options[-1])
    else:
        assert captions == expected


def test_a_retry_keeps_the_columns_beside_the_answers(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(TABLE)
    job = submitted(run, "list.csv", "--id-column", "id", "--on-invalid", "record")
    settle(job)
    options = ("--with", "list.csv", "--id-column", "id")
    before = answers(run, job, *options)
    assert run("retry", job).returncode == 0
    waiting = answers(run, job, *options)
    assert waiting == [one for one in before if one["status"] == "classified"]
    settle(job)
    after = answers(run, job, *options)
    assert [one["input"] for one in after] == [one["input"] for one in before]


@on_sqlite
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("http://a.org/6", "http://a.org/7",
         "but 'http://a.org/7' in the input (list.csv, line 8, column 'url')"),
        ("eight", "acht", "its URIs, ids or their order differ"),
        ("http://a.org/0,nine,c9\n", "", "it has 9 images, but the job has 10"),
        ("url,", "link,", "no column is named uri, url"),
    ],
)  # fmt: skip
def test_a_changed_input_is_refused_before_any_output(
    run: Run, settle: Callable[[str], None], tmp_path: Path, *, old: str, new: str, words: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(TABLE)
    job = submitted(run, "list.csv", "--id-column", "id", "--on-invalid", "record")
    settle(job)
    path.write_text(TABLE.replace(old, new))
    for output in ("out.csv", "parts/"):
        done = run(
            *("results", job, "--format", "csv", "--output", output),
            *("--with", "list.csv", "--id-column", "id"),
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert not (tmp_path / output).exists()


@on_sqlite
def test_a_sample_of_another_list_is_refused(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    name = write(tmp_path, "csv")
    job = submitted(run, name, "--sample", "5")
    settle(job)
    (tmp_path / name).write_text("url\n" + "".join(f"{uri}\n" for _, uri, _ in ROWS[1:]))
    done = run("results", job, "--with", name)
    assert done.returncode == 2
    assert "a sample of it has other images" in done.stderr


@on_sqlite
def test_values_of_any_type_become_json_and_cells(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    columns = {
        "url": ["http://a.org/1"], "day": [dt.date(2024, 1, 31)],
        "at": pa.array([1], pa.timestamp("ns")), "price": [Decimal("1.50")],
        "weight": [float("nan")], "sizes": [[0.5, float("inf")]], "size": [{"w": 3}],
        "sold": [True], "none": pa.array([None], pa.int64()),
        "big": pa.array([2**64 - 1], pa.uint64()),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "typed.parquet")
    job = submitted(run, "typed.parquet")
    settle(job)
    options = ("--with", "typed.parquet")
    assert answers(run, job, *options)[0]["input"] == {
        "day": "2024-01-31", "at": "1970-01-01 00:00:00.000000001", "price": "1.50",
        "weight": None, "sizes": [0.5, None], "size": {"w": 3}, "sold": True, "none": None,
        "big": 2**64 - 1,
    }  # fmt: skip
    row = next(csv.DictReader(io.StringIO(run("results", job, "--format", "csv", *options).stdout)))
    cells = {name: value for name, value in row.items() if name.startswith("input_")}
    assert cells == {
        "input_day": "2024-01-31", "input_at": "1970-01-01 00:00:00.000000001",
        "input_price": "1.50", "input_weight": "null", "input_sizes": "[0.5, null]",
        "input_size": '{"w": 3}', "input_sold": "true", "input_none": "",
        "input_big": str(2**64 - 1),
    }  # fmt: skip


@on_sqlite
def test_records_may_have_different_keys(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    records = [{"url": "http://a.org/0"}, {"url": "http://a.org/1", "a": 1}, {"url": 3, "b": [2]}]
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "list.jsonl").write_text(text)
    job = submitted(run, "list.jsonl", "--on-invalid", "record")
    settle(job)
    assert [one["input"] for one in answers(run, job, "--with", "list.jsonl")] == [
        {"a": None, "b": None}, {"a": 1, "b": None}, {"a": None, "b": [2]},
    ]  # fmt: skip


REFUSED: list[tuple[str, bytes, str, str]] = [
    ("list.txt", b"http://a.org/1\n", "--with list.txt --keep a",
     "list.txt, line 1: a list without a heading, so there are no columns for --keep. Write a"),
    ("list.jsonl", b'"http://a.org/1"\n', "--with list.jsonl --keep a",
     "list.jsonl, line 1: a text, so there are no columns for --keep. Write objects"),
    ("list.jsonl", b'{"url": "http://a.org/1"}\n', "--with list.jsonl --keep a",
     "list.jsonl: there is no column 'a', which --keep names. Columns: 'url'."),
    ("list.csv", b"url,ab\nhttp://a.org/1,2\n", "--with list.csv --keep abc",
     "there is no column 'abc', which --keep names. Did you mean 'ab'? Columns: 'url', 'ab'."),
    ("list.csv", b"url,ab\nhttp://a.org/1,2\n", "--with -", "--with reads its input twice"),
    ("list.csv", b"url,ab\nhttp://a.org/1,2\n", "--with lost.csv", "'lost.csv' does not exist"),
    ("list.csv", b"url,ab\nhttp://a.org/1,2\n", "--with http://a.org/2",
     "image 0 is 'http://a.org/1' in the job, but 'http://a.org/2' in the input. "),
]  # fmt: skip


@on_sqlite
@pytest.mark.parametrize(("name", "content", "options", "words"), REFUSED)
def test_input_without_columns_or_with_other_images_is_refused(
    run: Run,
    settle: Callable[[str], None],
    tmp_path: Path,
    *,
    name: str,
    content: bytes,
    options: str,
    words: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    job = submitted(run, name)
    settle(job)
    done = run("results", job, *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@on_sqlite
def test_a_column_of_bytes_is_refused_by_name(
    run: Run, settle: Callable[[str], None], tmp_path: Path
) -> None:
    table = pa.table({"url": ["http://a.org/1"], "image": [b"\xff"], "caption": ["cat"]})
    pq.write_table(table, tmp_path / "list.parquet")
    job = submitted(run, "list.parquet")
    settle(job)
    done = run("results", job, "--with", "list.parquet")
    assert done.returncode == 2
    assert "list.parquet, column 'image': of type binary, which is not text." in done.stderr
    assert answers(run, job, "--with", "list.parquet", "--keep", "caption")[0]["input"] == {
        "caption": "cat"
    }


def test_a_list_submitted_by_an_earlier_version_is_checked_by_its_uris(
    run: Run, engine: Engine, settle: Callable[[str], None], tmp_path: Path
) -> None:
    """The earlier version stored no digest of the images."""
    name = write(tmp_path, "csv")
    job = submitted(run, name)
    settle(job)
    with engine.begin() as connection:
        connection.execute(jobs.update().values(images_digest=None))
    assert len(answers(run, job, "--with", name)) == len(ROWS)
    swapped = [ROWS[1], ROWS[0], *ROWS[2:]]
    lists.write(tmp_path / name, "csv", swapped)
    done = run("results", job, "--with", name)
    assert done.returncode == 2
    assert "has changed since it was checked: image 0 was" in done.stderr


def test_a_sample_stores_how_many_images_it_was_drawn_from(
    run: Run, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(TABLE)
    submitted(run, "list.csv", "--on-invalid", "skip", "--sample", "2")
    submitted(run, "list.csv", "--on-invalid", "skip", "--unique", "--sample", "2")
    submitted(run, "list.csv", "--on-invalid", "skip")
    with reading(engine) as connection:
        found = connection.scalars(select(jobs.c.sampled_from).order_by(jobs.c.number)).all()
    assert found == [6, 4, None]
