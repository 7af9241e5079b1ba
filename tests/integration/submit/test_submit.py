"""A submit makes a whole job or none, on both databases."""

import os
import signal
import subprocess
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.schema import NEWEST_SCHEMA
from contract.database.tables import chunk_uris, chunks, jobs, workers
from contract.errors import SourceError, UnavailableError, UsageError
from contract.remaining import all_of
from contract.settings import Settings
from migrations.upgrade import upgrade
from producer.submit import draft
from producer.submit.draft import SILENT_S, SubmitInProgressError, TakenAwayError
from producer.submit.key import KeyConflictError
from producer.submit.sources.entry import Entry
from producer.submit.sources.read import read_runs
from producer.submit.submission import Order, submit, submit_entries

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

RESNEXTQ = Path(sys.executable).with_name("resnextq")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(database_url: str) -> Run:
    def run_command(*arguments: str, stdin: str | bytes = "", **environment: str):
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [RESNEXTQ, *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url} | environment,
            input=given,
            capture_output=True,
            timeout=300,
            check=False,
        )
        output, told = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, output, told)

    return run_command


def images(number: int, first: int = 0) -> Iterator[tuple[str, None]]:
    return ((f"http://a.org/{n}.jpg", None) for n in range(first, first + number))


def rows(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table))
            for table in (jobs, chunks, chunk_uris)
        }


NOTHING = {"jobs": 0, "chunks": 0, "chunk_uris": 0}


def test_a_job_is_cut_into_chunks_in_the_order_of_its_images(engine: Engine) -> None:
    settings = Settings(chunk_images=64, model="/m.json", weights="/w/x.pth", precision="fp32")
    # The job needs several transactions, and its last chunk is not full.
    job = submit(engine, images(10_000), name="n", key="k", priority=7, settings=settings)
    with reading(engine) as connection:
        row = connection.execute(select(jobs)).one()
        parts = connection.execute(select(chunks).order_by(chunks.c.chunk)).all()
        lists = connection.execute(select(chunk_uris).order_by(chunk_uris.c.chunk)).all()
    assert (row.id, row.name, row.key, row.priority) == (job, "n", "k", 7)
    assert (row.state, row.total, row.classified, row.failed) == ("running", 10_000, 0, 0)
    assert (row.model, row.weights, row.precision) == ("/m.json", "/w/x.pth", "fp32")
    assert row.queue == "m.x-pth.fp32"
    assert row.errors == {}
    assert len(job) == 16
    assert [part.chunk for part in parts] == list(range(157))
    assert [part.first_position for part in parts] == list(range(0, 10_000, 64))
    assert [part.images for part in parts] == [64] * 156 + [16]
    assert {part.state for part in parts} == {"pending"}
    assert all(part.remaining == all_of(part.images) for part in parts)
    assert all(part.remaining_images == part.images for part in parts)
    assert len({part.shuffle for part in parts}) > 150
    assert [uri for part in lists for uri in part.uris] == [uri for uri, _ in images(10_000)]


def test_without_a_set_length_chunks_grow_along_a_job(engine: Engine) -> None:
    submit(engine, images(17_000))
    with reading(engine) as connection:
        parts = connection.execute(select(chunks).order_by(chunks.c.chunk)).all()
        lists = connection.execute(select(chunk_uris).order_by(chunk_uris.c.chunk)).all()
    assert [part.chunk for part in parts] == list(range(195))
    lengths = [64] * 128 + [128] * 64 + [256] * 2 + [17_000 - 16_384 - 512]
    assert [part.images for part in parts] == lengths
    assert [part.first_position for part in parts] == [sum(lengths[:n]) for n in range(195)]
    assert all(part.remaining == all_of(part.images) for part in parts)
    assert [uri for part in lists for uri in part.uris] == [uri for uri, _ in images(17_000)]


def test_ids_are_kept_and_null_for_a_chunk_without_ids(engine: Engine) -> None:
    given = [("http://a.org/1", None), ("http://a.org/2", "ü2"), ("http://a.org/3", None)]
    submit(engine, given, settings=Settings(chunk_images=2))
    with reading(engine) as connection:
        statement = select(chunk_uris.c.refs, chunk_uris.c.refs.is_(None)).order_by("chunk")
        assert connection.execute(statement).all() == [([None, "ü2"], False), (None, True)]


def test_a_list_keeps_its_order_and_the_ids_of_some_lines(engine: Engine, tmp_path) -> None:
    """Lines without ids are grouped, also across chunks and transactions."""
    refs = [f"id {n}" if n % 700 == 0 else None for n in range(10_000)]
    uris = [uri for uri, _ in images(10_000)]
    lines = (uri if ref is None else f"{uri}\t{ref}" for uri, ref in zip(uris, refs, strict=True))
    (tmp_path / "list.txt").write_text("\n".join(lines))
    order = Order.of(Settings(chunk_images=100), name=None, key=None, priority=0)
    submission = submit_entries(engine, read_runs([str(tmp_path / "list.txt")]), order)
    assert submission.images == 10_000
    with reading(engine) as connection:
        parts = connection.execute(select(chunk_uris).order_by(chunk_uris.c.chunk)).all()
    assert [uri for part in parts for uri in part.uris] == uris
    assert [ref for part in parts for ref in part.refs or [None] * 100] == refs
    assert sum(part.refs is None for part in parts) == 100 - 15


def test_images_are_streamed_and_not_held_in_memory(sqlite_database: str) -> None:
    engine = make_engine(sqlite_database)
    submit(engine, images(1_000))  # load everything that is loaded once
    tracemalloc.start()
    submit(engine, images(100_000), settings=Settings(chunk_images=256))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    engine.dispose()
    assert peak_bytes < 12 * 2**20  # the URIs alone would take 14 MB as a list


@pytest.mark.parametrize("good", [3, 9_000])
def test_a_refused_uri_anywhere_leaves_nothing(engine: Engine, good) -> None:
    def given():
        yield from images(good)
        yield "ftp://a.org/x", None

    with pytest.raises(SourceError, match=rf"image {good + 1}: ftp://a.org/x"):
        submit(engine, given())
    assert rows(engine) == NOTHING


def test_an_error_in_mid_submit_leaves_nothing(engine: Engine) -> None:
    def given():
        yield from images(9_000)
        assert rows(engine)["chunks"] > 0, "the error comes too early for this test"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(engine, given())
    assert rows(engine) == NOTHING


def test_a_submit_of_nothing_is_an_error(engine: Engine) -> None:
    with pytest.raises(SourceError, match="no URI"):
        submit(engine, [])
    assert rows(engine) == NOTHING


@pytest.mark.parametrize("bad", [{"name": ""}, {"key": "a\nb"}, {"priority": 40_000}])
def test_name_key_and_priority_are_checked(engine: Engine, bad) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        submit(engine, images(1), **bad)
    assert rows(engine) == NOTHING


def test_a_key_makes_a_submit_repeatable(engine: Engine) -> None:
    job = submit(engine, images(3), key="k")
    assert submit(engine, images(3), key="k") == job
    assert submit(engine, images(3), key="other") != job
    assert rows(engine)["jobs"] == 2


def test_a_key_works_whatever_the_length_of_chunks(engine: Engine) -> None:
    given = [(uri, f"ü{n}" if n % 9 == 0 else None) for n, (uri, _) in enumerate(images(10_000))]
    job = submit(engine, given, key="k", settings=Settings(chunk_images=64))
    again = submit(engine, given, key="k", priority=3, settings=Settings(chunk_images=250))
    assert again == job


def other_content() -> dict[str, tuple[list[tuple[str, str | None]], dict[str, str], str]]:
    """Content other than `images(5_000)`: images, settings, and words of the message."""
    same = list(images(5_000))
    last = [*same[:-1], ("http://a.org/other.jpg", None)]
    return {
        "more": (list(images(5_001)), {}, "5,000 images, but this submit has more"),
        "fewer": (same[:1], {}, "5,000 images, but this submit has 1"),
        "none": ([], {}, "5,000 images, but this submit has 0"),
        "another last one": (last, {}, "other URIs or ids, or another order"),
        "another order": (same[::-1], {}, "another order"),
        "an id": ([(same[0][0], "1"), *same[1:]], {}, "other URIs or ids"),
        "another model": (
            same,
            {"model": "resnext50_32x4d"},
            "model is 'resnext101_32x4d', but this submit asks for 'resnext50_32x4d'",
        ),
        "another precision": (
            same,
            {"precision": "fp32"},
            "precision is 'amp', but this submit asks for 'fp32'",
        ),
    }


@pytest.mark.parametrize("how", sorted(other_content()))
def test_a_key_with_other_content_is_refused(engine: Engine, how: str) -> None:
    given, options, words = other_content()[how]
    job = submit(engine, images(5_000), key="k")
    before = rows(engine)
    with pytest.raises(KeyConflictError, match=rf"'k' belongs to job {job} with other.*{words}"):
        submit(engine, given, key="k", settings=Settings(**options))
    assert rows(engine) == before


def test_a_key_of_an_older_version_returns_its_job_for_any_content(engine: Engine) -> None:
    job = submit(engine, images(3), key="k")
    change_jobs(engine, images_digest=None)
    assert submit(engine, images(5), key="k") == job


def test_the_command_refuses_a_key_with_other_content(engine: Engine, run: Run) -> None:
    first = run("submit", "http://a.org/1.jpg", "--key", "k")
    again = run("submit", "-", "--key", "k", stdin="http://a.org/2.jpg\n")
    assert (again.returncode, again.stdout) == (2, "")
    assert f"'k' belongs to job {first.stdout.strip()} with other content" in again.stderr
    assert rows(engine)["jobs"] == 1


def test_each_user_has_separate_keys(engine: Engine, monkeypatch) -> None:
    job = submit(engine, images(3), key="k")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert submit(engine, images(3), key="k") != job


def change_jobs(engine: Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).values(**values))


def leave_over(engine: Engine, key: str, silent_s: float) -> None:
    """Leave what a submit leaves if it was killed `silent_s` ago."""
    submit(engine, images(3), key=key)
    change_jobs(engine, state="submitting", total=0, submit_heartbeat_at=db_now(-silent_s))


@pytest.mark.parametrize("silent_s", [SILENT_S - 1, SILENT_S + 1, 7_200])
def test_a_killed_submit_can_be_repeated_with_its_key(engine: Engine, silent_s: float) -> None:
    leave_over(engine, "k", silent_s)
    submit(engine, images(5), key="k")
    assert rows(engine) == {"jobs": 1, "chunks": 1, "chunk_uris": 1}
    with reading(engine) as connection:
        assert connection.execute(select(jobs.c.state, jobs.c.total)).one() == ("running", 5)


def test_the_rest_of_an_older_versions_submit_is_replaced_at_once(engine: Engine) -> None:
    leave_over(engine, "k", 0)
    change_jobs(engine, submit_heartbeat_at=None)
    submit(engine, images(5), key="k")
    assert rows(engine) == {"jobs": 1, "chunks": 1, "chunk_uris": 1}


def test_a_large_leftover_is_removed_in_short_transactions(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr("producer.removal.FIRST_ROWS", 10)
    submit(engine, images(105), key="k", settings=Settings(chunk_images=1))
    change_jobs(engine, state="submitting", submit_heartbeat_at=db_now(-60))
    deleted = defaultdict[str, list[int]](list)

    @event.listens_for(engine, "after_cursor_execute")
    def note(_connection, cursor, statement: str, *_: object) -> None:
        if statement.startswith("DELETE FROM chunk"):
            deleted[statement.split()[2]].append(cursor.rowcount)

    submit(engine, images(1), key="k")
    assert deleted.keys() == {"chunks", "chunk_uris"}
    for parts in deleted.values():
        assert parts[0] == 10, "a part of a new table is small, whatever came before"
        assert sum(parts) == 105
        assert len(parts) > 2
    assert rows(engine) == {"jobs": 1, "chunks": 1, "chunk_uris": 1}


def test_a_key_is_refused_until_its_running_submit_ends(engine: Engine) -> None:
    refused = []

    def given():
        yield from images(9_000)
        with pytest.raises(SubmitInProgressError, match="'k' is in use") as it:
            submit(engine, images(9_000), key="k")
        refused.append(str(it.value))

    job = submit(engine, given(), key="k")
    assert job in refused[0]
    assert submit(engine, images(9_000), key="k") == job


@pytest.mark.parametrize("after", [5_000, 9_000])  # noticed by a chunk, and by the last UPDATE
def test_a_submit_whose_key_was_taken_by_a_later_one_fails(
    engine: Engine, after, monkeypatch
) -> None:
    """It was suspended or had no connection for so long that it counted as dead."""
    monkeypatch.setattr(draft, "HEARTBEAT_S", 60)
    later = []

    def given():
        yield from images(after)
        change_jobs(engine, submit_heartbeat_at=db_now(-60))
        later.append(submit(engine, images(2), key="k"))
        yield from images(9_000 - after)

    with pytest.raises(TakenAwayError, match="was replaced"):
        submit(engine, given(), key="k")
    with reading(engine) as connection:
        assert connection.execute(select(jobs.c.id, jobs.c.total)).all() == [(later[0], 2)]
    assert rows(engine)["chunks"] == 1


def test_progress_is_reported_once_images_are_in_the_database(engine: Engine) -> None:
    told = []
    order = Order.of(Settings(), name=None, key=None, priority=0)
    entries = (Entry(uri, None, "", 0) for uri, _ in images(5_000))
    submission = submit_entries(engine, entries, order, advance=told.append)
    assert (submission.images, submission.repeated) == (5_000, False)
    assert told == [4_096, 904]


def test_the_command_prints_only_the_id_and_suggests_the_next_step(
    engine: Engine, run: Run
) -> None:
    done = run("submit", "-", "http://a.org/2.jpg", "--name", "two", stdin="http://a.org/1\tx\n")
    assert done.returncode == 0, done.stderr
    with reading(engine) as connection:
        job = connection.execute(select(jobs)).one()
    assert done.stdout == f"{job.id}\n"
    assert (job.name, job.total) == ("two", 2)
    assert f"resnextq status {job.id} --watch" in done.stderr
    assert (
        f"waiting: no worker serves {job.queue}; no worker is running. Start one: RESNEXT_MODEL="
        in done.stderr
    )


def test_repeating_the_command_with_a_key_says_already_submitted(engine: Engine, run: Run) -> None:
    first = run("submit", "http://a.org/1.jpg", "--key", "k", "--precision", "fp32")
    queue = "resnext101_32x4d.nvidia.fp32"
    with engine.begin() as connection:
        now = {"started_at": db_now(), "heartbeat_at": db_now()}
        rest = {"device": "cpu", "precision": "fp32", "version": "0", "images_per_s": 1.0}
        row = {"name": "w", "queue": queue, "stopping": False}
        connection.execute(insert(workers).values(**row, **rest, **now))
    again = run("submit", "-", "--key", "k", "--precision", "fp32", stdin="http://a.org/1.jpg")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "already submitted" in again.stderr
    assert "no worker" not in again.stderr


@on_sqlite
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nosuch"], "There is no model 'nosuch'. Choose resnext101_32x4d, "),
        (["--model", "resnext50_32x4"], "Did you mean resnext50_32x4d?"),
        (["--weights", "torchvison"], "resnext101_32x4d has no weights 'torchvison'. It has nvid"),
        (["--model", "resnext50_32x4d", "--weights", "torchvison"], "Did you mean torchvision?"),
    ],
)
def test_an_unknown_model_or_weights_are_refused(
    engine: Engine, run: Run, options: list[str], words: str
) -> None:
    done = run("submit", "http://a.org/1.jpg", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert rows(engine) == NOTHING


@on_sqlite
@pytest.mark.parametrize(
    "options",
    [
        ["--weights", "random"],
        ["--weights", "/models/mine.safetensors"],
        ["--weights", "mine.pth"],
        ["--model", "mine.json"],
        ["--model", "/models/mine.json", "--weights", "./other"],
    ],
)
def test_model_and_weights_may_be_files_on_the_workers(run: Run, options: list[str]) -> None:
    assert run("submit", "http://a.org/1.jpg", *options).returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(
    engine: Engine, database_url: str, how: signal.Signals
) -> None:
    process = subprocess.Popen(
        [RESNEXTQ, "submit", "-"],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write("".join(f"{uri}\n" for uri, _ in images(9_000)).encode())
    process.stdin.flush()
    while rows(engine)["chunks"] == 0:
        assert process.poll() is None
    process.send_signal(how)
    output, told = process.communicate(timeout=300)
    assert (process.returncode, output, told) == (128 + how, b"", b"")
    assert rows(engine) == NOTHING


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], bytes, str]]:
    """Arguments, standard input, and words of the message."""
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / "latin1.txt").write_bytes(b"http://a.org/1\nhttp://a.org/\xfc\n")
    (folder / "empty").mkdir()
    return {
        "dangling link": ([str(folder / "dangling")], b"", "dangling"),
        "no UTF-8": ([str(folder / "latin1.txt")], b"", "latin1.txt, line 2"),
        "empty folder": ([str(folder / "empty")], b"", "no URI"),
        "empty input": (["-"], b"# nothing\n\n", "no URI"),
        "no scheme": (["-"], b"a.org/1.jpg\n", "standard input, line 1: a.org/1.jpg"),
        "unknown scheme": (["gopher://a.org/1"], b"", "gopher: is not one of http, https, file"),
        "one of many": (["-"], b"http://a.org/1\n" * 9_000 + b"s3://b/1\n", "line 9001: s3://b/1"),
        "file outside the roots": (["file:///etc/x.png"], b"", "RESNEXT_FILE_ROOTS"),
        "password": (["http://me:secret@a.org/"], b"", "a user name or password"),
        "waiting": (["http://a.org/", "--fail-on-error"], b"", "--wait"),
    }


@on_sqlite
def test_bad_input_is_reported_and_changes_nothing(engine: Engine, run: Run, tmp_path) -> None:
    for what, (arguments, stdin, words) in bad_inputs(tmp_path).items():
        done = run("submit", *arguments, stdin=stdin)
        assert (done.returncode, done.stdout) == (2, ""), what
        assert done.stderr.startswith("resnextq: "), what
        assert words in done.stderr, what
        assert "Traceback" not in done.stderr, what
        assert rows(engine) == NOTHING, what


BAD_SETTINGS = [
    ("CHUNK_IMAGES", "99999", "RESNEXT_CHUNK_IMAGES is '99999'", 2),
    ("PRECISION", "fp64", "RESNEXT_PRECISION is 'fp64'", 2),
    ("DATABASE_URL", "mysql://a/b", "begins with mysql:", 2),
    ("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:port/db", "cannot be read as a URL", 2),
    ("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/db", "127.0.0.1:1/db", 3),
    ("DATABASE_URL", "sqlite:////nowhere/x.db", "no database at /nowhere/x.db", 3),
    ("DATABASE_URL", f"sqlite:///{__file__}", "file is not a database", 3),
]


@pytest.mark.parametrize("bad", BAD_SETTINGS)
def test_the_error_for_a_bad_setting_has_its_variable_and_value(bad, sqlite_database: str) -> None:
    variable, value, words, status = bad
    environment = os.environ | {
        "RESNEXT_DATABASE_URL": sqlite_database,
        f"RESNEXT_{variable}": value,
    }
    done = subprocess.run(
        [RESNEXTQ, "submit", "http://a.org/1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_schema_outside_the_range_stops_the_command(engine: Engine, run: Run) -> None:
    for version, words in (("0000", "no schema yet"), ("0999", "0999, too new")):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
        done = run("submit", "http://a.org/1")
        assert (done.returncode, done.stdout) == (3, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert rows(engine) == NOTHING
    refused = run("db", "upgrade")
    assert refused.returncode == 3
    assert "0999, too new" in refused.stderr


def test_a_schema_that_is_too_old_asks_for_the_upgrade(engine: Engine, monkeypatch) -> None:
    """The test makes the program newer than any existing schema."""
    from contract.database import schema

    monkeypatch.setattr(schema, "OLDEST_SCHEMA", schema.NEWEST_SCHEMA + 1)
    monkeypatch.setattr(schema, "NEWEST_SCHEMA", schema.NEWEST_SCHEMA + 1)
    with reading(engine) as connection, pytest.raises(UnavailableError, match="too old") as it:
        schema.check_schema(connection)
    assert "resnextq db upgrade" in str(it.value)


def test_db_upgrade_creates_the_database_and_reports_it(tmp_path) -> None:
    path = tmp_path / "new" / "folder" / "x.db"
    environment = os.environ | {"RESNEXT_DATABASE_URL": f"sqlite:///{path}"}
    told = [
        subprocess.run(
            [RESNEXTQ, "db", "upgrade"], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert told == [
        f"sqlite:///{path} upgraded: schema 0000 → {NEWEST_SCHEMA:04}\n",
        f"sqlite:///{path} is already at schema {NEWEST_SCHEMA:04}\n",
    ]
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    assert rows(engine) == NOTHING
    engine.dispose()
