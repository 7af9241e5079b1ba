"""Jobs with growing chunks go through the whole queue, on both databases.

The tests cover ids, images that fail and are retried, a user's retry, and a cancelled job.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

import contract.flow
from contract.database.engine import reading
from contract.database.tables import chunks, results
from producer.jobs.cancel import cancel
from producer.jobs.job import Job, find_job
from producer.jobs.retry import retry
from producer.submit.submission import submit
from tests.doubles.worker import WEB
from tests.integration.dispatching import until
from tests.integration.installation import Installation, dispatching

GROWING = 1_000
LENGTHS = [64, 64, 128, 256, 256, 232]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks grow after two of a length instead of 128."""
    monkeypatch.setattr(contract.flow, "CHUNKS_BEFORE_LONGER", 2)


def images_of(letter: str, number: int) -> list[tuple[str, str | None, str | None]]:
    """The URI, error code and id of each image of a job."""
    return [(*outcome_of(n), f"{letter}-{n}" if n % 5 else None) for n in range(number)]


def outcome_of(n: int) -> tuple[str, str | None]:
    if n % 97 == 3:
        return f"{WEB}fail/timeout/{n}", "timeout"  # after all its attempts
    if n % 89 == 5:
        return f"{WEB}fail/http_404/{n}", "http_404"
    return f"{WEB}ok/{n}", None


def submit_images(
    installation: Installation, images: list[Any], chunk_images: int | None = None
) -> str:
    settings = installation.settings.model_copy(update={"chunk_images": chunk_images})
    given = [(uri, ref) for uri, _, ref in images]
    return submit(installation.engine, given, settings=settings)


def job_of(installation: Installation, id_: str) -> Job:
    with reading(installation.engine) as connection:
        job: Job = find_job(connection, id_)
    return job


def await_end(installation: Installation, *jobs: str) -> None:
    for job in jobs:
        until(lambda job=job: job_of(installation, job).is_finished, lambda: installation.log)


def found(installation: Installation, id_: str) -> list[tuple[str, str | None, str | None]]:
    statement = select(results.c.uri, results.c.error_code, results.c.ref).order_by("position")
    number = job_of(installation, id_).number
    with reading(installation.engine) as connection:
        rows = connection.execute(statement.where(results.c.job_number == number))
        return [tuple(row) for row in rows]


def lengths_of(installation: Installation, id_: str) -> list[int]:
    statement = select(chunks.c.images).order_by(chunks.c.chunk)
    number = job_of(installation, id_).number
    with reading(installation.engine) as connection:
        return list(connection.scalars(statement.where(chunks.c.job_number == number)))


def test_each_image_of_each_job_has_its_own_id_uri_and_answer(installation: Installation) -> None:
    expected = {}
    with dispatching(installation):
        for letter, (number, chunk_images) in enumerate([(GROWING, None), (300, 7), (500, None)]):
            images = images_of(str(letter), number)
            expected[submit_images(installation, images, chunk_images)] = images
        installation.start(MAX_ATTEMPTS="2")
        await_end(installation, *expected)
    assert lengths_of(installation, next(iter(expected))) == LENGTHS
    assert {job: found(installation, job) for job in expected} == expected


def test_a_retry_runs_the_failed_images_of_long_chunks_again(installation: Installation) -> None:
    images = images_of("r", GROWING)
    failed = [code for _, code, _ in images if code is not None]
    with dispatching(installation):
        job = submit_images(installation, images)
        installation.start(MAX_ATTEMPTS="2")
        await_end(installation, job)
        before = job_of(installation, job)
        assert (before.classified, before.failed) == (GROWING - len(failed), len(failed))
        assert retry(installation.engine, job, ["http_404"]).images == failed.count("http_404")
        await_end(installation, job)
    after = job_of(installation, job)
    assert (after.classified, after.failed) == (before.classified, before.failed)
    assert found(installation, job) == images


def test_cancelling_a_job_of_growing_chunks_reaches_every_image(installation: Installation) -> None:
    images = images_of("c", GROWING)
    other = images_of("o", 200)
    with dispatching(installation):
        job = submit_images(installation, images)
        kept = submit_images(installation, other)
        cancel(installation.engine, job)
        installation.start(MAX_ATTEMPTS="2")
        await_end(installation, job, kept)
    rows = found(installation, job)
    assert [(uri, ref) for uri, _, ref in rows] == [(uri, ref) for uri, _, ref in images]
    assert {code for _, code, _ in rows} == {"cancelled"}
    assert found(installation, kept) == other
