"""The whole queue on both databases: several jobs with ids, and planted faults.

Submit, dispatcher, Redis and the worker are real. The worker's loaders and classifier do what each
URI says (`tests.doubles.worker`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, select

from contract.chunks.faults import faults_of_running_jobs
from contract.database.engine import reading
from contract.database.tables import results
from producer.doctor import check_servers
from producer.jobs.job import Job, as_json, find_job
from producer.submit.submission import submit
from tests.doubles.worker import WEB
from tests.integration.dispatching import until
from tests.integration.installation import Installation, dispatching

Images = Sequence[tuple[str, str | None]]


def submit_images(installation: Installation, images: Images, chunk_images: int) -> str:
    settings = installation.settings.model_copy(update={"chunk_images": chunk_images})
    return submit(installation.engine, images, settings=settings)


def read(installation: Installation, ask: Callable[[Connection], Any]) -> Any:
    with reading(installation.engine) as connection:
        return ask(connection)


def job_of(installation: Installation, id_: str) -> Job:
    job: Job = read(installation, lambda connection: find_job(connection, id_))
    return job


def await_end(installation: Installation, *jobs: str) -> None:
    for job in jobs:
        until(lambda job=job: job_of(installation, job).is_finished, lambda: installation.log)


def rows_of(installation: Installation, id_: str) -> list[tuple[str, str | None, str | None]]:
    statement = select(results.c.uri, results.c.ref, results.c.error_code).order_by("position")
    number = job_of(installation, id_).number
    rows = read(
        installation,
        lambda connection: connection.execute(statement.where(results.c.job_number == number)),
    )
    return [tuple(row) for row in rows]


def outcome_of(n: int) -> tuple[str, str | None]:
    """An image, and the error code that it ends with."""
    if n % 11 == 3:
        return f"{WEB}fail/timeout/{n}", "timeout"  # after all its attempts
    if n % 7 == 5:
        return f"{WEB}fail/http_404/{n}", "http_404"
    return f"{WEB}ok/{n}", None


@pytest.mark.parametrize("named", [True, False], ids=["with ids", "without"])
def test_every_image_of_every_job_has_its_own_id_uri_and_answer(
    installation: Installation, named
) -> None:
    """Jobs of one image and of many, in chunks of different lengths, with retried images."""
    expected, jobs = {}, []
    with dispatching(installation):
        for letter, (number, chunk_images) in enumerate([(1, 64), (130, 16), (70, 64), (200, 7)]):
            images = [
                (outcome_of(n)[0], f"{letter}-{n}" if named and n % 5 else None)
                for n in range(number)
            ]
            jobs.append(submit_images(installation, images, chunk_images))
            expected[jobs[-1]] = [
                (uri, ref, outcome_of(n)[1]) for n, (uri, ref) in enumerate(images)
            ]
        installation.start(MAX_ATTEMPTS="2", IN_FLIGHT_S="60")
        await_end(installation, *jobs)
    assert {job: rows_of(installation, job) for job in jobs} == expected


@pytest.mark.parametrize("fault", ["claim", "store", "batcher"])
def test_a_planted_fault_ends_as_internal_and_shows_while_it_lasts(
    installation: Installation, fault: str
) -> None:
    planted = f"{WEB}odd/0" if fault == "batcher" else f"{WEB}ok/planted"
    sick = [(planted if n == 5 else f"{WEB}ok/{n}", f"sick-{n}") for n in range(8)]
    sound = [(f"{WEB}ok/{n}", f"sound-{n}") for n in range(50)]
    with dispatching(installation):
        installation.start(f"faulty-{fault}", MAX_ATTEMPTS="2")
        jobs = [submit_images(installation, images, 8) for images in (sick, sound)]
        until(lambda: job_of(installation, jobs[0]).faults, lambda: installation.log)
        shape = as_json(job_of(installation, jobs[0]), Counter())
        (told,) = shape["faults"]
        assert shape["faults"] == {told: 1}
        assert told in str(read(installation, faults_of_running_jobs))
        (check,) = [one for one in check_servers(installation.settings) if one.name == "fault"]
        assert (check.state, told in check.found) == ("warning", True)
        await_end(installation, *jobs)
    assert rows_of(installation, jobs[1]) == [(*image, None) for image in sound]
    lost_with_it = range(8) if fault == "claim" else [5]
    assert rows_of(installation, jobs[0]) == [
        (*image, "internal" if n in lost_with_it else None) for n, image in enumerate(sick)
    ]
    assert installation.tallied() == 0
