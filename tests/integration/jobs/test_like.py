"""`submit --like JOB` copies another job's options, unless an option says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from contract.database.engine import reading
from contract.database.tables import jobs
from producer.jobs.job import Job, find_job

RESNEXTQ = Path(sys.executable).with_name("resnextq")
Run = Callable[..., subprocess.CompletedProcess[str]]
URI = "http://a.org/1"


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RESNEXTQ, "submit", *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url} | environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=tmp_path,
        )

    return run_command


@pytest.fixture
def submitted(run: Run, engine: Engine) -> Callable[..., Job]:
    def submit(*arguments: str, **environment: str) -> Job:
        done = run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        with reading(engine) as connection:
            return find_job(connection, done.stdout.strip())

    return submit


@pytest.fixture
def first(submitted: Callable[..., Job]) -> Job:
    return submitted(
        *(URI, "--model", "resnext50_32x4d", "--weights", "random", "--precision", "fp32"),
        *("--priority", "-3", "--tag", "team=red", "--tag", "run=7"),
        *("--stop-at-failures", "20%", "--expires", "2h", "--name", "first", "--key", "k"),
        *("--notify", "https://a.org/hook"),
    )


def asked(job: Job) -> tuple[object, ...]:
    how = (job.model, job.weights, job.precision, job.queue)
    return (*how, job.priority, job.tags, job.stop_at_failures)


def test_a_job_like_another_has_the_same_options(
    submitted: Callable[..., Job], first: Job, engine: Engine
) -> None:
    second = submitted(URI, "--like", first.id[:8], RESNEXT_MODEL="resnext101_64x4d")
    assert asked(second) == asked(first)
    assert (second.priority, second.stop_at_failures) == (-3, 0.2)
    assert (second.name, second.key, second.expires_at) == (None, None, None)
    with reading(engine) as connection:
        urls = connection.scalars(select(jobs.c.notify_url).order_by(jobs.c.number)).all()
    assert urls == ["https://a.org/hook", None]
    third = submitted(URI, "--like", second.id)
    assert asked(third) == asked(first)


def test_options_take_precedence(submitted: Callable[..., Job], first: Job) -> None:
    second = submitted(
        *(URI, "--like", first.id, "--precision", "amp", "--priority", "0"),
        *("--tag", "team=blue", "--stop-at-failures", "1"),
    )
    assert (second.model, second.weights, second.precision) == ("resnext50_32x4d", "random", "amp")
    assert (second.priority, second.stop_at_failures) == (0, 1.0)
    assert second.tags == {"team": "blue", "run": "7"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_weights_are_copied_only_for_the_same_model(
    submitted: Callable[..., Job], first: Job
) -> None:
    same = submitted(URI, "--like", first.id, "--model", first.model)
    assert same.weights == "random"
    other = submitted(URI, "--like", first.id, "--model", "resnext101_32x4d")
    assert (other.model, other.weights, other.precision) == ("resnext101_32x4d", "nvidia", "fp32")


BAD = {
    "an unknown job": (
        ("--like", "0123456789"),
        "No job has the id or the name '0123456789'. The latest",
    ),
    "too short an id": (("--like", "0"), "No job has the id or the name '0'."),
    "not an id": (("--like", "a b"), "No job has the id or the name 'a b'."),
    "an empty id": (("--like", ""), "No job has the id or the name ''."),
    "too many tags": (
        ("--like", "JOB", *(text for n in range(31) for text in ("--tag", f"t{n}=v"))),
        "A job can have at most 32 tags, got 33.",
    ),
    "a bad option": (
        ("--like", "JOB", "--stop-at-failures", "0"),
        "stop at failures must be a share of the images, above 0% and up to 100%, got 0.",
    ),
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_and_nothing_is_submitted(
    run: Run, first: Job, engine: Engine, options: tuple[str, ...], words: str
) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).values(id="0123456780abcdef"))
    arguments = [text.replace("JOB", "0123456780abcdef") for text in options]
    done = run(URI, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    with reading(engine) as connection:
        assert len(connection.scalars(select(jobs.c.id)).all()) == 1
    assert run(URI, "--like", "0123").returncode == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_like_works_with_a_dry_run(run: Run, first: Job) -> None:
    done = run(URI, "--like", first.id, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert f'"queue": "{first.queue}"' in done.stdout
    missing = run(
        *(URI, "--like", first.id, "--dry-run"), RESNEXT_DATABASE_URL="sqlite:////no/such/file.db"
    )
    assert missing.returncode == 3
