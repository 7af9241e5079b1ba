"""What a killed submit left is soon removed. A live submit loses nothing, however slow it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine, func, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunk_uris, chunks, jobs
from contract.errors import UnknownJobError
from contract.flow import count_chunks
from contract.settings import Settings
from producer import removal
from producer.dispatcher.abandoned import Remains
from producer.dispatcher.loop import Dispatcher
from producer.jobs.job import find_job
from producer.jobs.listed import Filter, list_jobs
from producer.submit import draft
from tests.integration.dispatching import change_job, submit_chunks, until

RESNEXTQ = Path(sys.executable).with_name("resnextq")
LINES = "".join(f"http://a.org/{n}.jpg\n" for n in range(9_000)).encode()
# Chunks of 64 images in two transactions. The last 808 images wait for more input.
WHOLE_CHUNKS = 128
OVER_AN_HOUR_S = 3_601.0
WITHIN_S = 300.0

Process = subprocess.Popen[bytes]


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return os.environ | {"RESNEXT_DATABASE_URL": database_url}


@pytest.fixture
def start_submit(environment: dict[str, str], engine: Engine) -> Iterator[Callable[..., Process]]:
    """A function that starts a submit, which reads 9,000 lines and waits for more."""
    started: list[Process] = []

    def start(*options: str) -> Process:
        process = subprocess.Popen(
            [RESNEXTQ, "submit", "-", *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        process.stdin.write(LINES)
        process.stdin.flush()
        until(lambda: count(engine, chunks) == WHOLE_CHUNKS)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def count(engine: Engine, table) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(table))


def is_empty(engine: Engine) -> bool:
    return not any(count(engine, table) for table in (jobs, chunks, chunk_uris))


def let_pass(engine: Engine, seconds: float) -> None:
    """Make the last heartbeat of every submit this old."""
    with engine.begin() as connection:
        connection.execute(update(jobs).values(submit_heartbeat_at=db_now(-seconds)))


def silence(engine: Engine) -> timedelta:
    """The time since the submit's last heartbeat."""
    with reading(engine) as connection:
        now, last = connection.execute(select(db_now(), jobs.c.submit_heartbeat_at)).one()
    return now - last


def listed(environment: dict[str, str]) -> list[dict[str, object]]:
    done = subprocess.run(
        [RESNEXTQ, "list", "--json"], env=environment, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def test_the_rest_of_a_killed_submit_is_removed_after_an_hour(engine: Engine, start_submit) -> None:
    process = start_submit()
    process.kill()
    process.wait(WITHIN_S)
    let_pass(engine, OVER_AN_HOUR_S - 60)
    assert Remains().remove(engine, for_s=60) == 0
    assert count(engine, chunks) > 0
    let_pass(engine, OVER_AN_HOUR_S)
    assert Remains().remove(engine, for_s=60) == 1
    assert is_empty(engine)


def test_list_shows_a_live_submit_but_no_dead_one(
    engine: Engine, start_submit, environment
) -> None:
    process = start_submit()
    (job,) = listed(environment)
    assert (job["state"], job["total"]) == ("submitting", 0)
    process.kill()
    process.wait(WITHIN_S)
    let_pass(engine, draft.SILENT_S + 1)
    assert listed(environment) == []


def test_a_killed_submits_key_is_soon_free_again(engine: Engine, start_submit, environment) -> None:
    """The test moves no clock. The next submit waits until the first one counts as dead."""
    process = start_submit("--key", "k")
    process.kill()
    process.wait(WITHIN_S)
    done = subprocess.run(
        [RESNEXTQ, "submit", "-", "--key", "k"],
        env=environment,
        input=LINES,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with reading(engine) as connection:
        assert connection.execute(select(jobs.c.state, jobs.c.total)).all() == [("running", 9_000)]
    assert count(engine, chunks) == count(engine, chunk_uris) == count_chunks(9_000, None)


def test_a_key_stays_in_use_while_its_submit_lives(
    engine: Engine, start_submit, environment
) -> None:
    process = start_submit("--key", "k")
    again = [RESNEXTQ, "submit", "http://a.org/1.jpg", "--key", "k"]
    done = subprocess.run(
        again, env=environment, capture_output=True, timeout=WITHIN_S, check=False
    )
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"'k' is in use" in done.stderr
    output, _ = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, len(output)) == (0, len("0123456789abcdef\n"))
    assert count(engine, chunks) == count_chunks(9_000, None)


def test_a_submit_whose_input_is_silent_for_hours_loses_nothing(
    engine: Engine, start_submit
) -> None:
    process = start_submit()
    let_pass(engine, 2 * OVER_AN_HOUR_S)
    until(lambda: silence(engine) < timedelta(seconds=draft.SILENT_S))
    assert Remains().remove(engine, for_s=60) == 0
    output, told = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, told
    with reading(engine) as connection:
        job = find_job(connection, output.decode().strip())
    assert (job.state, job.total) == ("running", 9_000)


def test_a_submit_that_was_suspended_for_hours_ends_with_a_clear_error(
    engine: Engine, start_submit
) -> None:
    process = start_submit()
    # A process suspended in mid-transaction would hold SQLite's lock, and then nothing could write.
    until(lambda: silence(engine) < timedelta(seconds=draft.HEARTBEAT_S / 4))
    process.send_signal(signal.SIGSTOP)
    let_pass(engine, OVER_AN_HOUR_S)
    assert Remains().remove(engine, for_s=60) == 1
    process.send_signal(signal.SIGCONT)
    output, told = process.communicate(LINES, timeout=WITHIN_S)
    assert (process.returncode, output) == (3, b"")
    assert b"had no heartbeat for 60 minutes" in told
    assert b"Traceback" not in told
    assert is_empty(engine)


def test_an_interrupted_removal_continues_and_the_job_stays_hidden(
    engine: Engine, monkeypatch
) -> None:
    monkeypatch.setattr(removal, "FIRST_ROWS", 1)
    number = submit_chunks(engine, 3)
    change_job(
        engine, number, state="submitting", total=0, submit_heartbeat_at=db_now(-OVER_AN_HOUR_S)
    )
    assert Remains().remove(engine, for_s=0) == 1
    assert removal.Removal(number, removal.once(engine)).step() == 1
    assert (count(engine, chunks), count(engine, chunk_uris)) == (2, 3)
    with reading(engine) as connection:
        job = connection.scalar(select(jobs.c.id))
        assert list_jobs(connection, Filter(), 10) == []
        with pytest.raises(UnknownJobError):
            find_job(connection, job)
    assert Remains().remove(engine, for_s=60) == 0
    assert is_empty(engine)


def test_a_draft_of_an_older_version_is_removed_after_a_day(engine: Engine) -> None:
    number = submit_chunks(engine, 1)
    change_job(engine, number, state="submitting", total=0, created_at=db_now(-23 * 3_600))
    assert Remains().remove(engine, for_s=60) == 0
    change_job(engine, number, created_at=db_now(-25 * 3_600))
    assert Remains().remove(engine, for_s=60) == 1
    assert is_empty(engine)


def test_the_dispatcher_removes_abandoned_drafts_but_no_whole_jobs(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    whole, left = submit_chunks(engine, 1), submit_chunks(engine, 1)
    old = db_now(-OVER_AN_HOUR_S)
    change_job(engine, left, state="submitting", total=0, submit_heartbeat_at=old)
    change_job(engine, whole, created_at=old)
    dispatcher = Dispatcher(engine, app, settings)
    for _ in range(2):  # removals have little time in a tick
        dispatcher.tick()
    with reading(engine) as connection:
        assert connection.scalars(select(jobs.c.number)).all() == [whole]
    assert count(engine, chunks) == 1
