"""Ended jobs are deleted with all their rows, and nothing else is, on both databases."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from celery import Celery
from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.types import Integer, TypeDecorator

from contract.chunks.remove import BY_ID, TABLES, Place, remove_some
from contract.chunks.run import FencedOff
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.space import can_shrink, free_bytes
from contract.database.tables import jobs, metadata, models, results
from contract.errors import JobStateError, UnknownJobError
from contract.settings import Settings
from migrations.upgrade import upgrade
from producer import removal
from producer.dispatcher.abandoned import Remains
from producer.dispatcher.count import fold
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.publish import publish
from producer.jobs import purge as purging
from producer.jobs import retry as retrying
from producer.jobs.cancel import cancel
from producer.jobs.change import pause
from producer.jobs.export.export import Export
from producer.jobs.export.sinks import target_of
from producer.jobs.export.window import Windows
from producer.jobs.job import find_job, read_job, read_jobs
from producer.jobs.purge import Which, choose, delete, remove
from producer.jobs.retry import retry
from tests.integration.dispatching import WITHIN_S, change_job, job_of, submit_chunks, until
from tests.integration.ending import (
    CLASSIFIED,
    IMAGES,
    MODEL_NUMBER,
    assert_ended,
    claim_next,
    dispatch,
    failed,
    register_model,
    run_all,
    store,
)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

RESNEXTQ = Path(sys.executable).with_name("resnextq")
JOB_COLUMNS = {"job", "job_number", "job_id"}
MANY = 40_000

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return os.environ | {
        "RESNEXT_DATABASE_URL": settings.database(),
        "RESNEXT_BROKER_URL": settings.broker(),
    }


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RESNEXTQ, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
            cwd=tmp_path,
        )

    return run


@pytest.fixture
def ended(engine: Engine, app: Celery, settings: Settings) -> int:
    """A completed job of three chunks. One image of each has failed."""
    register_model(engine)
    job = submit_chunks(engine, 3, images=IMAGES)
    run_all(engine, app, settings, [CLASSIFIED, failed("http_404"), CLASSIFIED, CLASSIFIED])
    dispatch(engine)
    assert_ended(engine, job, "completed")
    return job


@pytest.fixture
def running(engine: Engine, ended: int) -> int:
    """Another job, which has not begun."""
    del ended
    return submit_chunks(engine, 2, images=IMAGES)


def id_of(engine: Engine, number: int) -> str:
    return str(job_of(engine, number).id)


def purge(engine: Engine, number: int) -> None:
    delete(engine, id_of(engine, number))
    remove(engine, number, lambda _: None)


def tables_of_jobs(engine: Engine) -> list[Table]:
    """The database's tables with a column for the job, without views."""
    found = MetaData()
    found.reflect(engine, views=False)
    with_job = [t for t in found.sorted_tables if JOB_COLUMNS & set(t.c.keys())]
    return [metadata.tables[table.name] for table in with_job]


def of_job(table: Table, number: int, job_id: str) -> Any:
    return table.c.job_number == number if "job_number" in table.c else table.c.job_id == job_id


def rows_in_all(engine: Engine, number: int, job_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """The job's rows, by table."""
    tables = tables_of_jobs(engine)
    found = {}
    with reading(engine) as connection:
        for table in tables:
            rows = connection.execute(select(table).where(of_job(table, number, job_id))).all()
            found[table.name] = sorted(map(tuple, rows), key=repr)
    return found


def fill(engine: Engine, number: int, job_id: str) -> None:
    """Insert a row of the job into each table that has none yet, whatever its columns are."""
    tables = tables_of_jobs(engine)
    own = {"job_number": number, "job_id": job_id, "model_number": MODEL_NUMBER}
    with engine.begin() as connection:
        for table in tables:
            count = select(func.count()).select_from(table).where(of_job(table, number, job_id))
            if connection.scalar(count):
                continue
            row = {
                column.name: _value(column.type, job_id)
                for column in table.c
                if not column.nullable and column.name not in {"number", "id"}
            }
            row |= {name: value for name, value in own.items() if name in table.c}
            connection.execute(insert(table).values(**row))


def _value(kind: Any, otherwise: str) -> Any:
    if isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    for types, value in (
        (Boolean, False), (DateTime, db_now()), (JSON, {}), (LargeBinary, b""),
        ((Integer, SmallInteger), 1), ((Float, Numeric), 0.5),
    ):  # fmt: skip
        if isinstance(kind, types):
            return value
    return otherwise


def test_nothing_of_a_purged_job_is_left_in_any_table(
    engine: Engine, ended: int, running: int
) -> None:
    job_id, other_id = id_of(engine, ended), id_of(engine, running)
    fill(engine, ended, job_id)
    fill(engine, running, other_id)
    before = rows_in_all(engine, ended, job_id)
    assert all(before.values()), "a table has no row of the job, so this test would not cover it"
    others = rows_in_all(engine, running, other_id), job_of(engine, running)
    purge(engine, ended)
    assert not any(rows_in_all(engine, ended, job_id).values())
    with reading(engine) as connection:
        assert connection.scalars(select(jobs.c.number)).all() == [running]
        assert connection.scalars(select(models.c.number)).all() == [MODEL_NUMBER]
    assert (rows_in_all(engine, running, other_id), job_of(engine, running)) == others


def test_the_removal_knows_every_table_with_a_job(engine: Engine) -> None:
    """Otherwise the foreign key would delete all of the table's rows in one transaction."""
    assert {*TABLES, *BY_ID} == set(tables_of_jobs(engine))


def test_a_removal_deletes_many_rows_in_parts(engine: Engine, ended: int, running: int) -> None:
    add_results(engine, ended, 3_000)
    delete(engine, id_of(engine, ended))
    parts = []
    removed = remove(engine, ended, parts.append)
    assert (removed.rows, removed.parts) == (sum(parts), len(parts))
    assert removed.rows == 3_000 + 3 * IMAGES + 3 + 3 + count(engine, "class_counts", ended) + 1
    assert max(parts) < 3_000
    assert job_of(engine, running).state == "running"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_last_transaction_of_a_removal_reads_indexes_only(engine: Engine, ended: int) -> None:
    """The statistics still count the deleted rows. So PostgreSQL would read the whole table."""
    add_results(engine, ended, 3_000)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE results"))
    delete(engine, id_of(engine, ended))
    place: Place | None = Place()
    while place is not None:
        with engine.begin() as connection:
            before = connection.scalar(READ_WHOLE)
            place = remove_some(connection, ended, place, most=500)
            reads = (connection.scalar(READ_WHOLE) or 0) - (before or 0)
    assert reads == 0


READ_WHOLE = text("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'results'")


def count(engine: Engine, table: str, number: int) -> int:
    statement = select(func.count()).where(metadata.tables[table].c.job_number == number)
    with reading(engine) as connection:
        return int(connection.scalar(statement) or 0)


def add_results(engine: Engine, number: int, rows: int) -> None:
    """Insert further results after the existing ones."""
    row = {"job_number": number, "uri": "https://a.example/", "attempts": 1}
    first = 1_000
    with engine.begin() as connection:
        connection.execute(
            insert(results).values(settled_at=db_now()),
            [row | {"position": first + n} for n in range(rows)],
        )


@on_sqlite
@pytest.mark.parametrize("state", ["running", "paused", "submitting"])
def test_a_job_that_has_not_ended_is_not_deleted(
    engine: Engine, running: int, run: Run, state: str
) -> None:
    job_id = id_of(engine, running)
    if state == "paused":
        pause(engine, job_id)
    if state == "submitting":
        change_job(engine, running, state=state, submit_heartbeat_at=db_now())
    before = rows_in_all(engine, running, job_id)
    with pytest.raises(JobStateError, match=f"{job_id} is {state}, .* Cancel it first"):
        delete(engine, job_id)
    done = run("purge", "--job", job_id, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"resnextq cancel {job_id}" in done.stderr
    assert rows_in_all(engine, running, job_id) == before


def test_a_deleted_job_is_unknown_and_its_key_is_free(
    engine: Engine, ended: int, running: int
) -> None:
    change_job(engine, ended, key="k", notify_url="https://a.example/", notify_secret="s")
    job_id = id_of(engine, ended)
    delete(engine, job_id)
    row = job_of(engine, ended)
    assert (row.state, row.key, row.notify_url, row.notify_secret) == ("abandoned",) + (None,) * 3
    with reading(engine) as connection:
        assert [job.number for job in read_jobs(connection, [ended, running])] == [running]
        with pytest.raises(UnknownJobError):
            find_job(connection, job_id)
        with pytest.raises(UnknownJobError):
            read_job(connection, ended)
    for change in (cancel, pause, retry, delete):
        with pytest.raises(UnknownJobError):
            change(engine, job_id)


def test_a_retry_in_progress_does_not_restore_a_deleted_job(
    engine: Engine, ended: int, monkeypatch
) -> None:
    """The job is deleted between two transactions of the retry."""
    job_id = id_of(engine, ended)
    chosen = retrying._chunks_with_failures

    def chosen_then_deleted(*arguments: Any) -> Iterator[Any]:
        for numbers in chosen(*arguments):
            delete(engine, job_id)
            yield numbers

    monkeypatch.setattr(retrying, "_chunks_with_failures", chosen_then_deleted)
    with pytest.raises(UnknownJobError, match="deleted"):
        retry(engine, job_id)
    assert job_of(engine, ended).state == "abandoned"


def test_a_cancelled_job_can_be_deleted_at_once_and_late_results_are_dropped(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    register_model(engine)
    job = submit_chunks(engine, 2, images=IMAGES)
    publish(engine, app, settings)
    first, second = claim_next(engine, app), claim_next(engine, app)
    job_id = id_of(engine, job)
    cancel(engine, job_id)
    newer = submit_chunks(engine, 1)
    delete(engine, job_id)
    store(engine, first, [CLASSIFIED] * IMAGES)  # its chunk is still there
    fold(engine)
    remove(engine, job, lambda _: None)
    with pytest.raises(FencedOff):
        store(engine, second, [CLASSIFIED] * IMAGES)
    assert not any(rows_in_all(engine, job, job_id).values())
    with reading(engine) as connection:
        assert connection.scalars(select(jobs.c.number)).all() == [newer]


def test_the_number_of_a_deleted_job_is_not_reused(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Otherwise a worker that was suspended meanwhile would store its images in the new job."""
    register_model(engine)
    old = submit_chunks(engine, 1, images=IMAGES)
    publish(engine, app, settings)
    held = claim_next(engine, app)
    cancel(engine, id_of(engine, old))
    purge(engine, old)
    assert removal.marked_jobs(engine) == []
    new = submit_chunks(engine, 1, images=IMAGES)
    assert new != old
    publish(engine, app, settings)
    claim_next(engine, app)
    with pytest.raises(FencedOff):
        store(engine, held, [CLASSIFIED] * IMAGES)
    Remains().remove(engine, for_s=60)
    with reading(engine) as connection:
        assert connection.scalars(select(jobs.c.number)).all() == [new]


def test_the_dispatcher_finishes_an_earlier_removal(
    engine: Engine, app: Celery, settings: Settings, ended: int, running: int
) -> None:
    add_results(engine, ended, 2_000)
    job_id = id_of(engine, ended)
    delete(engine, job_id)
    begun = removal.Removal(ended, removal.once(engine))
    for _ in range(3):
        assert begun.step()
    dispatcher = Dispatcher(engine, app, settings)

    def is_deleted() -> bool:
        dispatcher.tick()
        return not any(rows_in_all(engine, ended, job_id).values())

    until(is_deleted)
    assert begun.step() is None
    assert job_of(engine, running).state == "running"


def test_two_removals_of_a_job_can_run_at_once(engine: Engine, ended: int, running: int) -> None:
    del running
    add_results(engine, ended, 500)
    job_id = id_of(engine, ended)
    delete(engine, job_id)
    both = [removal.Removal(ended, removal.once(engine)) for _ in range(2)]
    while any([one.step() is not None for one in both]):  # noqa: C419  (each takes a step)
        pass
    assert not any(rows_in_all(engine, ended, job_id).values())


def test_no_file_appears_if_the_job_is_deleted_during_the_export(
    engine: Engine, settings: Settings, ended: int, tmp_path: Path, monkeypatch
) -> None:
    with reading(engine) as connection:
        job = read_job(connection, ended)
    read = Windows.read

    def read_then_delete(windows: Windows, start: int, stop: int) -> list[Any]:
        purge(engine, ended)
        return read(windows, start, stop)

    monkeypatch.setattr(Windows, "read", read_then_delete)
    path = tmp_path / "out.jsonl"
    with pytest.raises(UnknownJobError, match="deleted"):
        Export(engine=engine, job=job, form="jsonl").write(target_of(str(path), settings))
    assert not path.exists()


def test_without_yes_nothing_is_deleted(engine: Engine, ended: int, running: int, run: Run) -> None:
    change_job(engine, ended, name="old\tone")
    job_id = id_of(engine, ended)
    before = rows_in_all(engine, ended, job_id)
    done = run("purge", "--state", "completed")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.split("\t")[:2] + line.split("\t")[3:4] == [job_id, "completed", "12"]
    assert "1 job with 12 images would be deleted; --yes deletes them" in done.stderr
    assert rows_in_all(engine, ended, job_id) == before
    assert job_of(engine, running).state == "running"


def test_the_command_deletes_jobs_that_are_old_enough(
    engine: Engine, ended: int, running: int, run: Run
) -> None:
    job_id = id_of(engine, ended)
    change_job(engine, ended, finished_at=db_now(-89 * 86_400))
    assert run("purge", "--older", "90d", "--yes").stdout == ""
    change_job(engine, ended, finished_at=db_now(-91 * 86_400))
    assert run("purge", "--older", "90d", "--state", "cancelled", "--yes").stdout == ""
    done = run("purge", "--older", "90d", "--state", "completed", "--job", job_id[:6], "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(job_id)
    assert f"job {job_id} was deleted: " in done.stderr
    assert "rows/s" in done.stderr
    assert not any(rows_in_all(engine, ended, job_id).values())
    assert job_of(engine, running).state == "running"


@on_sqlite
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Say which jobs: --older 90d"),
        (["--older", "90"], "'90' is not a duration"),
        (["--job", "0123456789abcdef"], "No job has the id or the name"),
        (["--state", "running"], "'running' is not one of"),
    ],
)
def test_bad_options_are_refused(engine: Engine, run: Run, options, words) -> None:
    del engine
    done = run("purge", *options, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_results_are_saved_before_they_are_deleted(
    engine: Engine, ended: int, running: int, run: Run, tmp_path: Path
) -> None:
    del running
    job_id = id_of(engine, ended)
    done = run("purge", "--job", job_id, "--keep-parquet", tmp_path / "kept", "--yes")
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / "kept" / job_id)
    assert (kept.num_rows, kept["error_code"].null_count) == (3 * IMAGES, 3 * IMAGES - 3)
    assert not any(rows_in_all(engine, ended, job_id).values())


def test_a_job_whose_results_cannot_be_saved_is_not_deleted(
    engine: Engine, ended: int, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    job_id = id_of(engine, ended)
    done = run("purge", "--job", job_id, "--keep-parquet", tmp_path / "file", "--yes")
    assert done.returncode == 3
    assert "cannot be written" in done.stderr
    assert_ended(engine, ended, "completed")


def test_a_cancelled_job_with_unfinished_images_is_not_saved_or_deleted(
    engine: Engine, running: int, run: Run, tmp_path: Path
) -> None:
    job_id = id_of(engine, running)
    cancel(engine, job_id)
    done = run("purge", "--job", job_id, "--keep-parquet", tmp_path / "kept", "--yes")
    assert done.returncode == 0
    assert (
        f"job {job_id} was not deleted: the dispatcher is still marking its remaining"
        in done.stderr
    )
    assert job_of(engine, running).state == "cancelled"


def test_a_job_retried_during_the_export_is_not_deleted(engine: Engine, ended: int) -> None:
    with reading(engine) as connection:
        job = read_job(connection, ended)
    retry(engine, job.id)
    with pytest.raises(JobStateError, match="has changed while its results were written"):
        purging.mark_as_read(engine, job)
    assert job_of(engine, ended).state == "running"


def test_the_next_purge_finishes_an_interrupted_one(
    engine: Engine, environment: dict[str, str], ended: int, running: int, run: Run
) -> None:
    add_results(engine, ended, MANY)
    job_id = id_of(engine, ended)
    process = subprocess.Popen(
        [RESNEXTQ, "purge", "--job", job_id, "--yes"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    whole = MANY + 3 * IMAGES
    until(lambda: 0 < count(engine, "results", ended) < whole)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130, told
    assert "interrupted; the dispatcher or the next `purge --yes`" in told
    assert job_of(engine, ended).state == "abandoned"
    done = run("purge", "--state", "completed", "--yes")
    assert (done.returncode, done.stdout) == (0, "")
    assert "the rest of an earlier purge was deleted" in done.stderr
    assert not any(rows_in_all(engine, ended, job_id).values())
    assert job_of(engine, running).state == "running"


def test_the_oldest_jobs_are_chosen_first(engine: Engine, ended: int, running: int) -> None:
    cancel(engine, id_of(engine, running))
    assert [job.number for job in choose(engine, Which())] == [ended, running]
    assert [job.number for job in choose(engine, Which(states=["cancelled"]))] == [running]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_purge_shrinks_a_new_sqlite_file(
    engine: Engine, ended: int, running: int, run: Run
) -> None:
    path = Path(engine.url.database or "")
    add_results(engine, ended, MANY)
    engine.dispose()  # this writes the log back into the file
    before = path.stat().st_size
    done = run("purge", "--job", id_of(engine, ended), "--yes")
    assert "the database's file is" in done.stderr
    assert free_bytes(engine) == 0
    assert path.stat().st_size < before / 4
    assert job_of(engine, running).state == "running"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_dispatcher_shrinks_the_file(engine: Engine, ended: int, running: int) -> None:
    del running
    add_results(engine, ended, MANY)
    with engine.begin() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    delete(engine, id_of(engine, ended))
    Remains().remove(engine, for_s=60)
    with reading(engine) as connection:
        assert connection.execute(text("PRAGMA page_count")).scalar_one() < pages / 4


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_purge_says_how_to_shrink_an_older_sqlite_file(
    engine: Engine, tmp_path: Path, environment: dict[str, str]
) -> None:
    del engine
    path = tmp_path / "older.db"
    sqlite3.connect(path).execute("CREATE TABLE first (a)")  # this fixes `auto_vacuum` to off
    older = make_engine(f"sqlite:///{path}")
    upgrade(older)
    assert not can_shrink(older)
    job = submit_chunks(older, 1)
    add_results(older, job, 1_000)
    cancel(older, id_of(older, job))
    command = [RESNEXTQ, "purge", "--state", "cancelled", "--yes"]
    done = subprocess.run(
        command,
        env=environment | {"RESNEXT_DATABASE_URL": f"sqlite:///{path}"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"sqlite3 {path} 'PRAGMA auto_vacuum = 2; VACUUM'" in done.stderr
    older.dispose()
    advised = sqlite3.connect(path)
    advised.executescript("PRAGMA auto_vacuum = 2; VACUUM")
    advised.close()
    assert can_shrink(older)
    assert free_bytes(older) == 0
    older.dispose()
