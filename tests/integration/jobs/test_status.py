"""What `status` and `list` say, on both databases."""

import getpass
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, delete, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, tallies, workers
from contract.errors import UnknownJobError
from producer.cli.render.status import render_job, render_jobs
from producer.jobs.job import Job, as_json, find_job, live_workers, read_job
from producer.submit.submission import submit

RESNEXTQ = Path(sys.executable).with_name("resnextq")


def run(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, *arguments],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def job(engine: Engine) -> str:
    """A job of ten images that runs."""
    return submit(engine, ((f"http://a.org/{n}", None) for n in range(10)), name="ten")


def change(engine: Engine, job: str, **values) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job).values(**values))


def tally(engine: Engine, job: str, classified: int, errors: dict[str, int]) -> None:
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        failed = sum(errors.values())
        connection.execute(
            insert(tallies).values(
                job_number=number, classified=classified, failed=failed, errors=errors
            )
        )


def read(engine: Engine, text: str) -> Job:
    with reading(engine) as connection:
        return find_job(connection, text)


def finish(engine: Engine, job: str, **errors: int) -> None:
    """As the dispatcher does with the last tally; it took four seconds."""
    failed = sum(errors.values())
    created_at = read(engine, job).created_at
    change(
        engine,
        job,
        state="completed",
        classified=10 - failed,
        failed=failed,
        errors=errors,
        finished_at=created_at + timedelta(seconds=4),
    )


def test_the_json_has_the_designed_keys(engine: Engine, database_url: str, job: str) -> None:
    done = run(database_url, "status", job, "--json")
    assert done.returncode == 0, done.stderr
    shape = json.loads(done.stdout)
    created_at = datetime.fromisoformat(shape.pop("created_at"))
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=5)
    assert shape == {
        "id": job,
        "name": "ten",
        "owner": getpass.getuser(),
        "key": None,
        "tags": {},
        "state": "running",
        "paused": False,
        "priority": 0,
        "model": "resnext101_32x4d",
        "weights": "nvidia",
        "weights_sha256": None,
        "precision": "amp",
        "queue": "resnext101_32x4d.nvidia.amp",
        "served": 0,
        "total": 10,
        "classified": 0,
        "failed": 0,
        "pending": 10,
        "images_per_s": 0.0,
        "eta_s": None,
        "expires_at": None,
        "finished_at": None,
        "errors": {},
        "faults": {},
    }
    assert done.stdout.count("\n") == 1
    assert "Z" in done.stdout


def test_tallies_that_are_not_folded_yet_count(engine: Engine, job: str) -> None:
    change(engine, job, classified=3, failed=1, errors={"dns": 1}, images_per_s=2.0)
    tally(engine, job, 1, {})
    tally(engine, job, 0, {"dns": 1, "http_404": 1})
    shape = as_json(read(engine, job), Counter())
    assert (shape["classified"], shape["failed"], shape["pending"]) == (4, 3, 3)
    assert shape["errors"] == {"dns": 2, "http_404": 1}
    assert (shape["images_per_s"], shape["eta_s"]) == (2.0, 1.5)


def test_a_tally_of_another_job_does_not_count(engine: Engine, job: str) -> None:
    other = submit(engine, [("http://a.org/", None)])
    tally(engine, other, 1, {})
    assert (read(engine, job).classified, read(engine, other).classified) == (0, 1)


def test_counts_stay_exact_while_tallies_are_folded(engine: Engine, job: str) -> None:
    """A reader never sees a tally both in the job and beside it, or in neither."""
    number = read(engine, job).number
    tally(engine, job, 5, {"dns": 1})
    seen, stop = set(), threading.Event()

    def fold_and_unfold() -> None:
        for turn in range(100):
            back = turn % 2
            with engine.begin() as connection:
                connection.execute(
                    update(jobs)
                    .where(jobs.c.number == number)
                    .values(classified=0 if back else 5, failed=0 if back else 1)
                )
                if back:
                    row = {"classified": 5, "failed": 1, "errors": {"dns": 1}}
                    connection.execute(insert(tallies).values(job_number=number, **row))
                else:
                    connection.execute(delete(tallies).where(tallies.c.job_number == number))
        stop.set()

    folder = threading.Thread(target=fold_and_unfold)
    folder.start()
    while not stop.is_set():
        with reading(engine) as connection:
            found = read_job(connection, number)
        seen.add((found.classified, found.failed, found.pending))
    folder.join()
    assert seen == {(5, 1, 4)}


def test_a_finished_job_has_its_mean_rate(engine: Engine, job: str) -> None:
    change(engine, job, images_per_s=999.0)
    finish(engine, job, dns=2)
    shape = as_json(read(engine, job), Counter())
    assert (shape["images_per_s"], shape["eta_s"], shape["pending"]) == (2.5, 0.0, 0)
    assert shape["finished_at"].endswith("Z")


def test_an_id_may_be_abbreviated_as_long_as_it_is_unique(engine: Engine, job: str) -> None:
    assert read(engine, job[:4]).id == job
    change(engine, job, id="abcd000000000001")
    other = submit(engine, [("http://a.org/", None)])
    change(engine, other, id="abcd000000000002")
    with pytest.raises(UnknownJobError, match="2 jobs have an id that begins with 'abcd'"):
        read(engine, "abcd")
    assert read(engine, "abcd000000000002").total == 1


@pytest.mark.parametrize("text", ["", "abc", "%%%%", "no-such-job", "ffffffffffffffff", "\udcff!"])
def test_an_unknown_id_is_named_with_those_that_there_are(engine: Engine, job, text) -> None:
    with pytest.raises(UnknownJobError, match="resnextq list") as it:
        read(engine, text)
    assert repr(text) in str(it.value)
    assert job in str(it.value)


def test_an_id_with_a_slip_is_told_the_nearest(engine: Engine, job: str) -> None:
    slip = ("0" if job[0] != "0" else "1") + job[1:]
    with pytest.raises(UnknownJobError, match=f"Did you mean {job}"):
        read(engine, slip)


def test_commands_refuse_an_unknown_job_quietly(database_url: str, engine: Engine) -> None:
    for command in ("status", "results", "cancel", "retry"):
        done = run(database_url, command, "nosuchjob")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "resnextq: No job has the id 'nosuchjob'. "
            "There are no jobs yet; `resnextq submit` makes one.\n"
        )


def test_list_shows_the_newest_first(engine: Engine, database_url: str, job: str) -> None:
    newer = submit(engine, [("http://a.org/", None)])
    shapes = json.loads(run(database_url, "list", "--json").stdout)
    assert [shape["id"] for shape in shapes] == [newer, job]
    assert shapes[1] == json.loads(run(database_url, "status", job, "--json").stdout)
    assert len(json.loads(run(database_url, "list", "--json", "--limit", "1").stdout)) == 1


def test_watching_ends_with_the_job(engine: Engine, database_url: str, job: str) -> None:
    process = subprocess.Popen(
        [RESNEXTQ, "status", job, "--watch", "--json"],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["state"] == "running"
    tally(engine, job, 4, {})
    assert json.loads(process.stdout.readline())["classified"] == 4
    with engine.begin() as connection:
        connection.execute(delete(tallies))
        connection.execute(update(jobs).values(state="completed", classified=10))
    (last,) = process.stdout.read().splitlines()
    assert json.loads(last)["state"] == "completed"
    process.stdout.close()
    assert process.wait(timeout=300) == 0


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_watching_ends_once_what_was_left_is_settled(
    engine: Engine, database_url: str, job: str, state: str
) -> None:
    change(engine, job, state=state, classified=4)
    process = subprocess.Popen(
        [RESNEXTQ, "status", job, "--watch", "--json", "--fail-on-error"],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        text=True,
    )
    first = json.loads(process.stdout.readline())
    assert (first["state"], first["pending"], first["finished_at"]) == (state, 6, None)
    change(engine, job, failed=6, errors={state: 6}, finished_at=db_now())
    (last,) = process.stdout.read().splitlines()
    assert (json.loads(last)["errors"], json.loads(last)["pending"]) == ({state: 6}, 0)
    process.stdout.close()
    assert process.wait(timeout=300) == 1


def test_of_several_jobs_those_that_run_are_cancelled(
    engine: Engine, database_url: str, job: str
) -> None:
    ended = submit(engine, [("http://a.org/", None)])
    change(engine, ended, state="completed", classified=1, finished_at=db_now())
    unknown = run(database_url, "cancel", job, "nosuchjob")
    assert (unknown.returncode, read(engine, job).state) == (2, "running")

    done = run(database_url, "cancel", ended, job, job)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"resnextq: Job {ended} is completed: there is nothing left to cancel.\n"
        + f"resnextq: job {job} is cancelled; 10 images were left\n" * 2
    )
    assert (read(engine, job).state, read(engine, ended).state) == ("cancelled", "completed")


def test_a_retry_says_how_many_images_and_refuses_what_is_no_code(
    database_url: str, engine: Engine, job: str
) -> None:
    done = run(database_url, "retry", job, "--error", "http_404", "--error", "time-out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no error code 'time-out'. Did you mean timeout?" in done.stderr
    done = run(database_url, "retry", job)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_the_time_that_a_job_has_is_shown(engine: Engine, database_url: str, job: str) -> None:
    done = run(database_url, "submit", "http://a.org/", "--expires", "2h", "--name", "brief")
    brief = done.stdout.strip()
    expires_at = read(engine, brief).expires_at
    shape = json.loads(run(database_url, "status", brief, "--json").stdout)
    assert datetime.fromisoformat(shape["expires_at"]) == expires_at.replace(
        microsecond=expires_at.microsecond // 1000 * 1000
    )
    assert (
        f"expires    {expires_at:%Y-%m-%d %H:%M:%S} UTC"
        in run(database_url, "status", brief).stdout
    )
    assert "expires" not in run(database_url, "status", job).stdout
    listed = shown(render_jobs([read(engine, brief), read(engine, job)]))
    assert f"{expires_at:%Y-%m-%d %H:%M}" in listed
    assert "expires" not in shown(render_jobs([read(engine, job)]))
    refused = run(database_url, "submit", "http://a.org/", "--expires", "soon")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'soon' is no duration" in refused.stderr


def test_people_see_how_a_job_has_ended(engine: Engine, job: str) -> None:
    change(engine, job, state="expired", expires_at=db_now(), classified=4)
    text = " ".join(shown(render_job(read(engine, job), live_workers_of(engine))).split())
    assert "6 pending, of 10" in text
    assert "expired 20" in text
    assert "no worker" not in text


def test_failures_are_an_exit_status_for_those_who_ask(
    engine: Engine, database_url: str, job: str
) -> None:
    assert run(database_url, "status", job, "--fail-on-error").returncode == 0
    finish(engine, job, http_404=2, dns=1)
    assert run(database_url, "status", job).returncode == 0
    done = run(database_url, "status", job, "--watch", "--fail-on-error")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "The server answered with" in done.stdout
    finish(engine, job)
    assert run(database_url, "status", job, "--fail-on-error").returncode == 0


def test_submit_waits_for_the_job(sqlite_database: str) -> None:
    process = subprocess.Popen(
        [RESNEXTQ, "submit", "http://a.org/1", "--wait", "--fail-on-error"],
        env=os.environ | {"RESNEXT_DATABASE_URL": sqlite_database},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    job = process.stdout.readline().strip()
    engine = make_engine(sqlite_database)
    assert process.poll() is None
    change(engine, job, state="completed", failed=1, errors={"dns": 1}, finished_at=db_now())
    assert process.wait(timeout=300) == 1
    process.stdout.close()
    engine.dispose()


def register(engine: Engine, name: str, queue: str, age_s: float, *, stopping: bool) -> None:
    rest = {"device": "cpu", "precision": "fp32", "version": "0", "images_per_s": 1.0}
    times = {"started_at": db_now(-age_s), "heartbeat_at": db_now(-age_s)}
    row = {"name": name, "queue": queue, "stopping": stopping} | rest | times
    with engine.begin() as connection:
        connection.execute(insert(workers).values(**row))


def test_workers_count_while_they_live(engine: Engine) -> None:
    register(engine, "a", "q", 1, stopping=False)
    register(engine, "b", "q", 100, stopping=False)
    register(engine, "c", "q", 1, stopping=True)
    register(engine, "d", "r", 1, stopping=False)
    with reading(engine) as connection:
        assert live_workers(connection, 30) == {"q": 1, "r": 1}


def shown(rendered: object, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(rendered)
    return capture.get()


def test_people_see_counts_reasons_and_what_is_missing(engine: Engine, job: str) -> None:
    change(engine, job, name="[red]cats[/]", images_per_s=0.5)
    tally(engine, job, 5, {"http_404": 1, "quantum": 1})
    found = read(engine, job)
    text = shown(render_job(found, live_workers_of(engine)))
    for part in (
        job,
        "[red]cats[/]",
        "5 classified, 2 failed, 3 pending, of 10",
        "70.0%",
        "0.5 images/s, 6 s left",
        "no worker serves resnext101_32x4d.nvidia.amp yet",
        "The server answered with status 404.",
        "A code of a newer version.",
    ):
        assert part in " ".join(text.split()), part
    assert job in shown(render_jobs([found]), width=80)


def live_workers_of(engine: Engine):
    with reading(engine) as connection:
        return live_workers(connection, 30)


def test_a_reader_that_stops_reading_is_no_error(database_url: str, engine: Engine, job) -> None:
    process = subprocess.Popen(
        [RESNEXTQ, "list"],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=300), told) == (141, b"")
