"""Lines without a URI, duplicate URIs, samples and dry runs, on both databases."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select, update

from contract.chunks.dispatch import due
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, chunks, jobs, results, tallies, workers
from contract.errors import SourceError, UsageError
from contract.remaining import decode
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.jobs.job import find_job
from producer.jobs.results import read_results
from producer.jobs.retry import retry
from producer.submit.check import Findings, OnInvalid
from producer.submit.groups import Group
from producer.submit.intake import Intake
from producer.submit.sample import MAX_SAMPLE, sampled
from producer.submit.sources.entry import Entry
from producer.submit.sources.read import read_runs
from producer.submit.submission import Order, submit_entries

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

RESNEXTQ = Path(sys.executable).with_name("resnextq")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    def run_command(*arguments: str, stdin: str = "", **environment: str):
        return subprocess.run(
            [RESNEXTQ, *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url} | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=tmp_path,
        )

    return run_command


def order(**values: Any) -> Order:
    settings = Settings(**{"chunk_images": 4} | values)
    return Order.of(settings, name=None, key=None, priority=0)


def uris_of(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        lists = connection.scalars(select(chunk_uris.c.uris).order_by(chunk_uris.c.chunk)).all()
    return [uri for uris in lists for uri in uris]


TABLE = """url,id
http://a.org/0,zero
ftp://a.org/1,one
http://a.org/2
,three
http://a.org/4,four
http://a.org/5,five
http://a.org/6,six
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "list.csv").write_text(TABLE)
    return "list.csv"


def test_stop_submits_nothing_and_names_the_other_options(engine: Engine, run: Run, table) -> None:
    done = run("submit", table)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "resnextq: 3 lines are refused, so nothing is submitted:\n"
        "  list.csv, line 3, column 'url': ftp://a.org/1: ftp: is not one of http, https, file\n"
        "  list.csv, line 4: http://a.org/2: 1 cell, but the heading has 2\n"
        "  list.csv, line 5, column 'url': empty\n"
        "`--on-invalid skip` leaves them out, `--on-invalid record` keeps their positions, "
        "and `--dry-run` counts them.\n"
    )
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(jobs)) == 0


def test_skip_leaves_invalid_lines_out_and_counts_them(engine: Engine, run: Run, table) -> None:
    done = run("submit", table, "--id-column", "id", "--on-invalid", "skip")
    assert done.returncode == 0, done.stderr
    assert uris_of(engine) == [f"http://a.org/{n}" for n in (0, 4, 5, 6)]
    assert "3 lines skipped." in done.stderr
    assert "list.csv, line 5, column 'url': empty" in done.stderr
    assert "4 images submitted" in done.stderr


def test_columns_that_are_not_read_are_named(run: Run, tmp_path: Path) -> None:
    listed = tmp_path / "pets.csv"
    listed.write_text("sku,url,price\nred-7,http://a.org/1,5\n")
    words = "columns that are not read: 'sku', 'price'. `--id-column NAME` keeps one as your own"
    assert words in run("submit", str(listed)).stderr
    assert words in run("submit", str(listed), "--dry-run").stderr
    assert "not read" not in run("submit", str(listed), "--id-column", "sku").stderr


def test_record_turns_invalid_lines_into_failed_images(engine: Engine, run: Run, table) -> None:
    done = run("submit", table, "--id-column", "id", "--on-invalid", "record")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert "3 lines recorded as failed." in done.stderr
    with reading(engine) as connection:
        found = find_job(connection, job)
        rows = connection.execute(select(results).order_by(results.c.position)).all()
        parts = connection.execute(select(chunks).order_by(chunks.c.chunk)).all()
    assert (found.state, found.total, found.failed, found.errors) == (
        "running",
        7,
        3,
        {"blocked_scheme": 1, "bad_uri": 2},
    )
    assert [(r.position, r.uri, r.ref, r.error_code, r.attempts) for r in rows] == [
        (1, "ftp://a.org/1", "one", "blocked_scheme", 0),
        (2, "http://a.org/2", None, "bad_uri", 0),
        (3, "", "three", "bad_uri", 0),
    ]
    assert rows[1].error_detail == "list.csv, line 4: 1 cell, but the heading has 2"
    offsets = [n for part in parts for n in decode(part.remaining)]
    assert (len(parts), parts[0].remaining_images, offsets) == (1, 4, [0, 4, 5, 6])
    records = list(read_results(engine, found))
    assert [(r["position"], r["error"]["code"]) for r in records] == [
        (1, "blocked_scheme"),
        (2, "bad_uri"),
        (3, "bad_uri"),
    ]


def test_a_recorded_image_has_the_error_code_that_a_worker_would_give_it(
    engine: Engine, tmp_path: Path
) -> None:
    wanted = {
        "file:///elsewhere/cat.jpg": "blocked_path",
        "http://a.org:81/cat.jpg": "blocked_port",
        "s3://bucket/cat.jpg": "blocked_scheme",
        "http://user@a.org/cat.jpg": "bad_uri",
        "cat.jpg": "bad_uri",
        "/elsewhere/cat.jpg": "bad_uri",
    }
    job = recorded(engine, *wanted, file_roots=(tmp_path,), fetch_ports=(80, 443))
    with reading(engine) as connection:
        found = find_job(connection, job)
    assert {r["uri"]: r["error"]["code"] for r in read_results(engine, found)} == wanted
    assert found.errors == Counter(wanted.values())


def listed(*uris: str) -> list[Entry]:
    return [Entry(uri, None, "list", n) for n, uri in enumerate(uris, start=1)]


def recorded(engine: Engine, *uris: str, **values: Any) -> str:
    intake = Intake(on_invalid=OnInvalid.record)
    return submit_entries(engine, listed(*uris), order(**values), intake=intake).job


def test_a_job_of_only_recorded_lines_is_complete_at_once(engine: Engine) -> None:
    job = recorded(engine, *["ftp://a.org/"] * 9)
    with reading(engine) as connection:
        found = find_job(connection, job)
        states = connection.scalars(select(chunks.c.state)).all()
    assert (found.state, found.pending, found.failed) == ("completed", 0, 9)
    assert found.finished_at is not None
    assert states == ["done"] * 3


def test_a_chunk_of_only_recorded_lines_is_never_published(engine: Engine) -> None:
    recorded(engine, *["ftp://a.org/"] * 4, "http://a.org/1", "ftp://a.org/", chunk_images=4)
    with reading(engine) as connection:
        number = connection.scalar(select(jobs.c.number))
        assert connection.execute(due(number, most=10)).all() == [(1, 1)]


def test_the_last_result_completes_a_job_with_recorded_lines(engine: Engine) -> None:
    job = recorded(engine, "ftp://a.org/", "http://a.org/1")
    tally = {"job_number": 1, "classified": 1, "failed": 0, "errors": {}}
    with engine.begin() as connection:
        tally["job_number"] = connection.scalar(select(jobs.c.number))
        connection.execute(insert(tallies).values(**tally))
    fold(engine)
    with reading(engine) as connection:
        found = find_job(connection, job)
    assert (found.state, found.classified, found.failed) == ("completed", 1, 1)


def test_recorded_lines_run_when_they_are_retried(engine: Engine) -> None:
    """A worker will refuse them and give the reason."""
    job = recorded(engine, *["ftp://a.org/"] * 3)
    assert retry(engine, job).images == 3
    with reading(engine) as connection:
        found = find_job(connection, job)
    assert (found.state, found.pending, found.failed) == ("running", 3, 0)


def test_an_error_after_recorded_lines_leaves_nothing(engine: Engine) -> None:
    def given():
        yield from listed(*["ftp://a.org/"] * 9_000)
        raise SourceError("the list ends early")

    with pytest.raises(SourceError, match="ends early"):
        submit_entries(engine, given(), order(), intake=Intake(on_invalid=OnInvalid.record))
    with reading(engine) as connection:
        for one in (jobs, chunks, chunk_uris, results):
            assert connection.scalar(select(func.count()).select_from(one)) == 0


def test_lines_that_no_column_can_store_are_recorded_readably(engine: Engine) -> None:
    recorded(engine, "http://a.org/\x00\n", "http://a.org/\ud800", "x" * 9_000)
    with reading(engine) as connection:
        found = connection.scalars(select(results.c.uri).order_by(results.c.position)).all()
    assert found == ["http://a.org/��", "http://a.org/�", "x" * 8_192]


def test_unique_keeps_the_first_of_equal_uris_in_order(engine: Engine) -> None:
    seeded = random.Random(1)
    uris = [f"http://a.org/{seeded.randrange(3_000)}" for _ in range(10_000)]
    findings = Findings()
    intake = Intake(unique=True, findings=findings)
    submission = submit_entries(engine, listed(*uris), order(chunk_images=64), intake=intake)
    expected = list(dict.fromkeys(uris))
    assert uris_of(engine) == expected
    assert submission.images == len(expected)
    assert findings.duplicates == len(uris) - len(expected)


def test_unique_does_not_merge_recorded_lines(engine: Engine) -> None:
    uris = ["http://a.org/1", "ftp://a.org/", "http://a.org/1", "ftp://a.org/"]
    intake = Intake(on_invalid=OnInvalid.record, unique=True)
    submit_entries(engine, listed(*uris), order(), intake=intake)
    assert uris_of(engine) == ["http://a.org/1", "ftp://a.org/", "ftp://a.org/"]
    assert intake.findings.duplicates == 1


@pytest.mark.parametrize("number", [1, 500, 9_999, 10_000, 20_000])
def test_a_sample_has_its_size_keeps_the_order_and_is_repeatable(engine: Engine, number) -> None:
    uris = [f"http://a.org/{n}" for n in range(10_000)]
    for _ in range(2):
        submit_entries(engine, listed(*uris), order(chunk_images=64), intake=Intake(sample=number))
    with reading(engine) as connection:
        totals = connection.scalars(select(jobs.c.total)).all()
        refs = connection.execute(
            select(chunk_uris.c.job_number, chunk_uris.c.uris).order_by("job_number", "chunk")
        ).all()
    assert totals == [min(number, 10_000)] * 2
    lists: dict[int, list[str]] = {}
    for row in refs:
        lists.setdefault(row.job_number, []).extend(row.uris)
    first, second = lists.values()
    assert first == second
    positions = [int(uri.rpartition("/")[2]) for uri in first]
    assert positions == sorted(set(positions))


def test_every_image_is_equally_likely_to_be_sampled() -> None:
    whole = Group([str(n) for n in range(1_000)], [None] * 1_000)
    hits: Counter[int] = Counter()
    for seed in range(200):
        for group in sampled([whole.cut(0, 300), whole.cut(300, 700)], 100, seed):
            hits.update(int(uri) // 100 for uri in group.uris)
    assert sum(hits.values()) == 200 * 100
    assert all(1_700 < hits[tenth] < 2_300 for tenth in range(10)), hits


@pytest.mark.parametrize("number", [0, -1, MAX_SAMPLE + 1])
def test_an_invalid_sample_size_is_refused(number) -> None:
    with pytest.raises(
        UsageError, match=f"--sample must be from 1 to 1,000,000 images, got {number}"
    ):
        Intake(sample=number)


def test_a_dry_run_counts_and_changes_nothing(engine: Engine, run: Run, tmp_path, table) -> None:
    uris = ["http://b.org/1", "http://b.org/1", "http://B.org:8080/2", "file:///etc/x.png"]
    (tmp_path / "more.jsonl").write_text("".join(f"{json.dumps({'url': uri})}\n" for uri in uris))
    done = run("submit", table, "more.jsonl", "--dry-run", "--json", "--on-invalid", "skip")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["forecast"] == {
        "workers": 0, "images_per_s": 0.0, "waiting": 0, "alone_s": None, "behind_s": None,
    }  # fmt: skip
    assert (report["images"], report["chunks"], report["duplicates"]) == (7, 1, 1)
    assert report["would_submit"] is True
    assert report["refused"] == {
        "ftp: is not one of http, https, file": 1,
        "1 cell, but the heading has 2": 1,
        "empty": 1,
        "not under any of RESNEXT_FILE_ROOTS": 1,
    }
    assert [(host["host"], host["images"]) for host in report["hosts"]] == [
        ("a.org", 4),
        ("b.org", 2),
        ("b.org:8080", 1),
    ]
    assert run("list", "--json").stdout == "[]\n"
    stopped = run("submit", table, "--dry-run", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["would_submit"]) == (2, False)


@on_sqlite
@pytest.mark.parametrize(
    ("options", "status"), [((), 2), (("--on-invalid", "skip"), 0), (("--dry-run",), 2)]
)
@pytest.mark.parametrize("roots", ["", "/srv/a,/srv/b"])
@pytest.mark.usefixtures("engine")
def test_refused_files_come_with_the_folders_that_are_permitted_once(
    run: Run, options: tuple[str, ...], status: int, roots: str
) -> None:
    done = run("submit", "-", *options, stdin="file:///x/1.png\nfile:///x/2.png\nhttp://a.org/\n",
               RESNEXT_FILE_ROOTS=roots)  # fmt: skip
    assert done.returncode == status, done.stderr
    told = done.stdout + done.stderr
    expected = roots.replace(",", ", ") or "not set, so no file may be read"
    assert told.count(f"RESNEXT_FILE_ROOTS is {expected}. Set it to the folders of your") == 1
    assert "not under any of RESNEXT_FILE_ROOTS" in told


def test_a_dry_run_forecasts_with_the_live_workers(engine: Engine, run: Run, tmp_path) -> None:
    queue = order().queue
    row = {"queue": queue, "device": "cpu", "precision": "fp32", "version": "0", "stopping": False}
    times = {"started_at": db_now(), "heartbeat_at": db_now()}
    with engine.begin() as connection:
        for name in ("a", "b"):
            values = row | {"name": name, "images_per_s": 5.0}
            connection.execute(insert(workers).values(**values, **times))
    submit_entries(engine, listed(*[f"http://a.org/{n}" for n in range(50)]), order())
    (tmp_path / "list.txt").write_text("".join(f"http://a.org/{n}\n" for n in range(100)))
    done = run("submit", "list.txt", "--dry-run", "--json", "--sample", "60")
    assert json.loads(done.stdout)["forecast"] == {
        "workers": 2, "images_per_s": 10.0, "waiting": 50, "alone_s": 6.0, "behind_s": 11.0,
    }  # fmt: skip


@on_sqlite
@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_a_dry_run_fits_its_terminal(run: Run, tmp_path, table, columns) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").touch()
    done = run("submit", table, "photos", "--dry-run", "--unique", COLUMNS=columns)
    assert done.returncode == 2
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    for words in ("4 in 1 chunk", "Why lines are refused", "100.0%", "a.org", "no worker serves"):
        assert words in " ".join(done.stdout.split()), done.stdout
    assert "photos: 1 file left out" in " ".join(done.stdout.split())


def test_a_dry_run_needs_no_database(run: Run, table) -> None:
    done = run("submit", table, "--dry-run", "--on-invalid", "skip",
               RESNEXT_DATABASE_URL="sqlite:////nowhere/x.db")  # fmt: skip
    assert done.returncode == 0
    assert "unknown: the database could not be asked" in done.stdout
    assert "no forecast: " in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json"], "--json needs --dry-run"),
        (["--dry-run", "--wait"], "--wait cannot be used with --dry-run"),
    ],
)
def test_options_that_exclude_each_other_are_refused(run: Run, table, options, words) -> None:
    done = run("submit", table, *options)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_key_stands_for_the_images_taken_from_the_list(engine: Engine, run: Run, table) -> None:
    """The same list with the same options counts as the same content."""
    options = ["--key", "k", "--on-invalid", "record", "--unique", "--sample", "5"]
    first = run("submit", table, *options)
    assert first.returncode == 0, first.stderr
    assert run("submit", table, *options).stdout == first.stdout
    other = run("submit", table, *options[:2], "--on-invalid", "skip")
    assert other.returncode == 2
    assert "with other content" in other.stderr


def test_a_killed_submit_with_recorded_lines_is_removed_completely(engine: Engine) -> None:
    from producer.dispatcher.abandoned import Remains

    recorded(engine, *["ftp://a.org/"] * 350)
    with engine.begin() as connection:
        old = {"state": "submitting", "total": 0, "submit_heartbeat_at": db_now(-7_200)}
        connection.execute(update(jobs).values(**old))
    assert Remains().remove(engine, for_s=60) == 1
    with reading(engine) as connection:
        for one in (jobs, chunks, chunk_uris, results):
            assert connection.scalar(select(func.count()).select_from(one)) == 0


@on_sqlite
def test_submit_reports_files_left_out_of_a_folder(run: Run, engine: Engine, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.txt"):
        (tmp_path / "photos" / name).touch()
    done = run("submit", "photos", RESNEXT_FILE_ROOTS=str(tmp_path))
    assert done.returncode == 0
    assert "photos: 1 file left out: not an image by its extension (.txt 1)" in done.stderr
    (tmp_path / "photos" / "a.jpg").unlink()
    done = run("submit", "photos", RESNEXT_FILE_ROOTS=str(tmp_path))
    assert done.returncode == 2
    assert "photos: 1 file left out" in done.stderr


@on_sqlite
def test_the_output_of_results_can_be_submitted(run: Run, engine: Engine) -> None:
    recorded(engine, "ftp://a.org/1", "http://a.org/2")
    job = run("list", "--json").stdout
    lines = run("results", json.loads(job)[0]["id"]).stdout.replace("ftp:", "http:")
    again = run("submit", "-", stdin=lines)
    assert again.returncode == 0, again.stderr
    assert uris_of(engine)[-1] == "http://a.org/1"


def test_read_runs_reads_standard_input_by_default(monkeypatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"url\nhttp://a.org/1\n")))
    (found,) = read_runs(["-"])
    assert found.uris == ["http://a.org/1"]
    assert not sys.stdin.buffer.closed


@on_sqlite
def test_who_has_not_started_up_is_told_to_start_it(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "resnext.db").write_bytes(
        Path(database_url.removeprefix("sqlite:///")).read_bytes()
    )
    for n in range(5):
        (tmp_path / f"{n}.png").touch()
    done = subprocess.run(
        [RESNEXTQ, "submit", tmp_path],
        env=os.environ | {"RESNEXT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "`resnextq up` is not running. Start it with RESNEXT_FILE_ROOTS" in done.stderr
    assert done.stderr.count("not under any of RESNEXT_FILE_ROOTS") == 3
    assert "  … and others for the same reason" in done.stderr
