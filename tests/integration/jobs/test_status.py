"""The output of `status` and `list`, on both databases."""

import getpass
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, delete, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, tallies, workers
from contract.errors import UnknownJobError
from contract.failure import ERROR_CODES
from contract.served import model_of_up, note_served
from contract.settings import Settings
from producer.cli.render import watch
from producer.cli.render.status import render_job, render_jobs
from producer.jobs.job import Job, as_json, find_job, live_workers, read_job
from producer.submit.submission import submit
from resnext.spec.catalogue import BUNDLED

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

RESNEXTQ = Path(sys.executable).with_name("resnextq")


def run(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RESNEXT_DATABASE_URL": database_url}
    environment.pop("COLUMNS", None)
    return subprocess.run(
        [RESNEXTQ, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def job(engine: Engine) -> str:
    """A running job of ten images."""
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
    """Mark the job as completed four seconds after its submit, as the dispatcher does."""
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
        "took_s": None,
        "expires_at": None,
        "finished_at": None,
        "errors": {},
        "faults": {},
    }
    assert done.stdout.count("\n") == 1
    assert "Z" in done.stdout


def test_unfolded_tallies_count(engine: Engine, job: str) -> None:
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
    assert shape["took_s"] == 4.0
    change(engine, job, idle_s=2.0)
    found = read(engine, job)
    assert (found.images_per_s, found.took_s) == (5.0, 2.0)
    assert "; ran 2 s in all" in shown(render_job(found, Counter()), 120)


def test_a_unique_start_of_an_id_is_enough(engine: Engine, job: str) -> None:
    assert read(engine, job[:4]).id == job
    change(engine, job, id="abcd000000000001")
    other = submit(engine, [("http://a.org/", None)])
    change(engine, other, id="abcd000000000002")
    with pytest.raises(UnknownJobError, match="2 jobs have the name 'abcd' or an id"):
        read(engine, "abcd")
    assert read(engine, "abcd000000000002").total == 1


def test_a_job_is_found_by_its_name_or_as_last(engine: Engine, job: str) -> None:
    change(engine, job, name="cats of 2026")
    assert read(engine, "cats of 2026").id == job
    newer = submit(engine, [("http://a.org/", None)])
    assert [read(engine, text).id for text in ("last", "cats of 2026")] == [newer, job]
    change(engine, newer, name="cats of 2026")
    with pytest.raises(UnknownJobError, match=f"2 jobs have the name .* it: {newer}, {job}"):
        read(engine, "cats of 2026")
    change(engine, newer, name=job[:4])
    with pytest.raises(UnknownJobError, match=f"2 jobs have the name '{job[:4]}' or an id"):
        read(engine, job[:4])


def test_last_ignores_deleted_jobs(engine: Engine, job: str) -> None:
    leftover = submit(engine, [("http://a.org/", None)])
    change(engine, leftover, state="abandoned")
    assert read(engine, "last").id == job


@pytest.mark.parametrize("text", ["", "abc", "%%%%", "no-such-job", "ffffffffffffffff", "\udcff!"])
def test_the_error_for_an_unknown_id_lists_the_known_ones(engine: Engine, job, text) -> None:
    with pytest.raises(UnknownJobError, match="resnextq list") as it:
        read(engine, text)
    assert repr(text) in str(it.value)
    assert job in str(it.value)


def test_the_error_for_a_mistyped_id_names_the_nearest(engine: Engine, job: str) -> None:
    slip = ("0" if job[0] != "0" else "1") + job[1:]
    with pytest.raises(UnknownJobError, match=f"Did you mean {job}"):
        read(engine, slip)


@on_sqlite
def test_commands_refuse_an_unknown_job_in_one_line(database_url: str, engine: Engine) -> None:
    for command in ("status", "results", "cancel", "retry"):
        done = run(database_url, command, "nosuchjob")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "resnextq: No job has the id or the name 'nosuchjob'. "
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
def test_watching_a_cancelled_job_ends_once_its_images_are_finished(
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


def test_cancel_stops_the_running_ones_of_several_jobs(
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
        + f"resnextq: job {job} is cancelled; 10 of 10 images were not done\n" * 2
    )
    assert (read(engine, job).state, read(engine, ended).state) == ("cancelled", "completed")


def test_retry_prints_the_number_of_images_and_refuses_unknown_codes(
    database_url: str, engine: Engine, job: str
) -> None:
    done = run(database_url, "retry", job, "--error", "http_404", "--error", "time-out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no error code 'time-out'. Did you mean timeout?" in done.stderr
    done = run(database_url, "retry", job)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert done.stderr == "resnextq: no image has failed\n"
    done = run(database_url, "retry", job, "--error", "timeout", "--error", "http_503")
    assert done.stderr == "resnextq: no image has failed with timeout or http_503\n"


@on_sqlite
def test_the_time_limit_of_a_job_is_shown(engine: Engine, database_url: str, job: str) -> None:
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
    listed = shown(render_jobs([read(engine, brief), read(engine, job)], Counter()))
    assert f"{expires_at:%Y-%m-%d %H:%M}" in listed
    assert "expires" not in shown(render_jobs([read(engine, job)], Counter()))
    refused = run(database_url, "submit", "http://a.org/", "--expires", "soon")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'soon' is not a duration" in refused.stderr


def test_an_expired_job_shows_how_it_ended(engine: Engine, job: str) -> None:
    change(engine, job, state="expired", expires_at=db_now(), classified=4)
    text = " ".join(shown(render_job(read(engine, job), live_workers_of(engine))).split())
    assert "6 pending, of 10" in text
    assert "expired 20" in text
    assert "no worker" not in text


def test_fail_on_error_sets_the_exit_status(engine: Engine, database_url: str, job: str) -> None:
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
        stderr=subprocess.PIPE,
        text=True,
    )
    job = process.stdout.readline().strip()
    engine = make_engine(sqlite_database)
    assert process.poll() is None
    change(engine, job, state="completed", failed=1, errors={"dns": 1}, finished_at=db_now())
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"job {job} is completed: 0 classified, 1 failed, of 1, after" in told
    assert "\n  1 dns: The host's name" in told
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


def test_status_shows_counts_errors_and_the_missing_worker(engine: Engine, job: str) -> None:
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
        "waiting: no worker serves resnext101_32x4d.nvidia.amp; no worker is running",
        "RESNEXT_MODEL=resnext101_32x4d resnextq worker",
        "The server answered with status 404.",
        "This code is from a newer version.",
    ):
        assert part in " ".join(text.split()), part
    assert job in shown(render_jobs([found], Counter()), width=80)


@on_sqlite
@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_the_advice_for_each_code_is_whole_on_any_terminal(engine, job, width) -> None:
    found = replace(read(engine, job), errors=dict.fromkeys(ERROR_CODES, 1))
    text = shown(render_job(found, live_workers_of(engine)), width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    for code in ERROR_CODES.values():
        assert words >= set(re.findall(r"RESNEXT_[A-Z_]+\S*", code.advice)), code.name
        assert any(word.startswith(code.name) for word in words)


def test_a_job_that_no_worker_serves_is_waiting(
    engine: Engine, database_url: str, job: str
) -> None:
    register(engine, "a", "other.random.amp", 1, stopping=False)
    sentence = (
        "waiting: no worker serves resnext101_32x4d.nvidia.amp; the workers serve other.random.amp"
    )
    assert sentence in run(database_url, "status", job).stdout
    assert " waiting " in run(database_url, "list").stdout


def test_a_job_of_an_up_that_is_starting_needs_no_other_worker(
    engine: Engine, database_url: str, job: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("RESNEXT_HOME", str(tmp_path))
    starting = "waiting: the worker of `resnextq up` is starting"
    settings = Settings(home=tmp_path, database_url=database_url)
    note_served(settings)
    told = run(database_url, "status", job).stdout
    assert starting in told
    assert "resnextq worker" not in told
    found = read(engine, job)
    served = settings.model_copy(update={"model": BUNDLED})
    for up, expected in ((settings, starting), (served, "Start one: RESNEXT_MODEL=")):
        note_served(up)
        told = watch.waiting(found, Counter(), lambda: model_of_up(settings))
        assert told is not None
        assert expected in told


def test_waiting_is_printed_once_and_progress_at_intervals(
    engine: Engine, job: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0)
    found = read(engine, job)
    served, ended = Counter({found.queue: 1}), replace(found, state="completed")
    looks = iter(
        [(found, Counter(o=1)), *2 * [(found, Counter(o=1))], (found, served), (ended, served)]
    )
    watch.watching(lambda: next(looks))
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"resnextq: job {job}  0.0%  0/10  ") for line in told] == [
        True,
        False,
        True,
    ]
    assert told[1].startswith(
        "waiting: no worker serves resnext101_32x4d.nvidia.amp; the workers serve o."
    )
    looks = iter([(found, served), *3 * [(found, served)], (ended, served)])
    watch.watching(lambda: next(looks), line_every_s=0)
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_list_of_jobs_fits_its_terminal(engine: Engine, job: str, width: int) -> None:
    """Narrow terminals lose whole columns, but no id, state or number is cut."""
    change(engine, job, name="a name that is longer than most", expires_at=db_now(60))
    tally(engine, job, 5, {"http_404": 1})
    text = shown(render_jobs([read(engine, job)], live_workers_of(engine)), width)
    assert max(map(len, text.splitlines())) <= width
    assert ("…" in text) == (60 <= width < 120), "the name, and nothing else, is cut"
    for word in (job, "waiting", "60.0%"):
        assert word in text
    assert ("failed" in text) == (width >= 60)
    assert ("submitted (UTC)" in text) == (width >= 80)
    assert ("expires (UTC)" in text) == (width >= 100)


def test_a_pipe_gets_whole_lines(engine: Engine, database_url: str, job: str) -> None:
    change(engine, job, name="n" * 150, expires_at=db_now(60))
    (_, line) = run(database_url, "list").stdout.splitlines()
    assert "n" * 150 in line


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_watched_job_shows_its_numbers_at_any_width(engine: Engine, job: str, width: int) -> None:
    change(engine, job, total=2_000_000, classified=1_234_567, images_per_s=12_345.6)
    found = read(engine, job)
    text = shown(watch.progress_line(found, width), width)
    assert len(text.splitlines()) == 1
    for part in ("61.7%", "1,234,567/2,000,000", "0 failed", "62 s left"):
        assert part in text
    assert ("12,345.6 images/s" in text) == (width >= 80)
    assert "━" in text


def test_cancelled_images_are_counted_separately(
    engine: Engine, database_url: str, job: str
) -> None:
    change(engine, job, classified=4, failed=6, errors={"dns": 1, "cancelled": 5},
           state="cancelled", finished_at=db_now())  # fmt: skip
    text = run(database_url, "status", job).stdout
    assert "4 classified, 1 failed, 5 cancelled, 0 pending, of 10" in text
    header, line = run(database_url, "list").stdout.splitlines()
    assert header.split()[5:7] == ["failed", "cancelled"]
    assert line.split()[5:7] == ["1", "5"]
    shape = json.loads(run(database_url, "status", job, "--json").stdout)
    assert (shape["failed"], shape["errors"]) == (6, {"cancelled": 5, "dns": 1})


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
