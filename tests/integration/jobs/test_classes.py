"""Class counts: kept while results come in, exact at any moment, shown by `status`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, delete, func, insert, select

from contract.chunks.results import add_tally, classes_of, insert_results
from contract.database.engine import reading
from contract.database.tables import class_counts, jobs, labels, results, tallies
from producer.cli.render.status import render_classes
from producer.dispatcher.count import fold
from producer.jobs.classes import ClassCount, count_classes
from tests.integration.dispatching import change_job, job_of, submit_chunks
from tests.integration.ending import MODEL_NUMBER, register_model

RESNEXTQ = Path(sys.executable).with_name("resnextq")


@pytest.fixture
def job(engine: Engine) -> int:
    register_model(engine)
    names = [
        {"model_number": MODEL_NUMBER, "class_id": class_id, "label": label}
        for class_id, label in ((281, "tabby"), (0, "tench"))
    ]
    with engine.begin() as connection:
        connection.execute(insert(labels), names)
    return submit_chunks(engine, 100)


def result_rows(job: int, first: int, classes: Iterable[int | None]) -> list[tuple[object, ...]]:
    """Result rows as a worker makes them. The class None means a failed image."""
    rows = []
    for position, class_id in enumerate(classes, start=first):
        row = dict.fromkeys(column.name for column in results.c if column.name != "settled_at")
        row |= {"job_number": job, "position": position, "uri": "http://a.org/", "attempts": 1}
        if class_id is None:
            row["error_code"] = "http_404"
        else:
            row |= {"model_number": MODEL_NUMBER, "class_1": class_id, "score_1": 0.5}
        rows.append(tuple(row.values()))
    return rows


def store(engine: Engine, job: int, first: int, *classes: int | None, older: bool = False) -> None:
    """Store a chunk's results as a worker does. An `older` worker's tally has no class counts."""
    rows = result_rows(job, first, classes)
    failed = classes.count(None)
    with engine.begin() as connection:
        insert_results(connection, rows)
        add_tally(
            connection,
            job,
            classified=len(rows) - failed,
            errors={"http_404": failed} if failed else {},
            classes=None if older else classes_of(rows),
        )


def counted(engine: Engine, job: int, most: int | None = None) -> list[tuple[str | None, int]]:
    with reading(engine) as connection:
        return [(one.label, one.images) for one in count_classes(connection, job, most)]


def folded(engine: Engine, job: int) -> dict[int, int]:
    mine = select(class_counts).where(class_counts.c.job_number == job)
    with reading(engine) as connection:
        return {row.class_id: row.images for row in connection.execute(mine)}


def test_classes_are_counted_before_and_after_the_fold(engine: Engine, job: int) -> None:
    store(engine, job, 0, 281, 281, None, 0, 7)
    expected = [("tabby", 2), ("tench", 1), (None, 1)]
    assert counted(engine, job) == expected
    assert fold(engine) == 1
    assert folded(engine, job) == {281: 2, 0: 1, 7: 1}
    assert counted(engine, job) == expected
    store(engine, job, 5, 0, 0, 0)
    assert counted(engine, job) == [("tench", 4), ("tabby", 2), (None, 1)]
    fold(engine)
    assert counted(engine, job, most=2) == [("tench", 4), ("tabby", 2)]


def test_shares_are_of_the_classified_images(engine: Engine, job: int) -> None:
    store(engine, job, 0, 281, 281, 281, 0, None)
    with reading(engine) as connection:
        first, second = count_classes(connection, job)
    assert (first.share, second.share) == (0.75, 0.25)


def test_jobs_are_counted_separately(engine: Engine, job: int) -> None:
    other = submit_chunks(engine, 100)
    store(engine, job, 0, 281)
    store(engine, other, 0, 0, 0)
    fold(engine)
    assert counted(engine, job) == [("tabby", 1)]
    assert counted(engine, other) == [("tench", 2)]


@pytest.mark.parametrize("folds", [False, True])
def test_results_of_an_older_worker_are_counted(engine: Engine, job: int, *, folds: bool) -> None:
    store(engine, job, 0, 281, 281, older=True)
    store(engine, job, 2, 281, 0)
    if folds:
        fold(engine)
    assert counted(engine, job) == [("tabby", 3), ("tench", 1)]


def test_results_folded_by_an_older_dispatcher_are_counted(engine: Engine, job: int) -> None:
    store(engine, job, 0, 281, 0, 0)
    change_job(engine, job, classified=3)
    with engine.begin() as connection:
        connection.execute(delete(tallies))
    assert counted(engine, job) == [("tench", 2), ("tabby", 1)]


def test_the_counts_are_deleted_with_their_job(engine: Engine, job: int) -> None:
    store(engine, job, 0, 281)
    fold(engine)
    with engine.begin() as connection:
        connection.execute(delete(jobs).where(jobs.c.number == job))
    assert folded(engine, job) == {}


def test_two_dispatchers_at_once_count_each_image_once_while_workers_store(
    engine: Engine, job: int
) -> None:
    chunks, classes = 40, (281, 0, 7, 281)
    barrier, stored = threading.Barrier(3), threading.Event()

    def work() -> None:
        barrier.wait()
        for chunk in range(chunks):
            store(engine, job, chunk * len(classes), *classes)
        stored.set()

    def fold_on() -> None:
        barrier.wait()
        while not stored.is_set():
            fold(engine)
            assert sum(images for _, images in counted(engine, job)) % len(classes) == 0

    with ThreadPoolExecutor(3) as threads:
        works = [threads.submit(work), threads.submit(fold_on), threads.submit(fold_on)]
        for each in works:
            each.result(60)
    fold(engine)
    assert folded(engine, job) == {
        class_id: chunks * images for class_id, images in Counter(classes).items()
    }


def status(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RESNEXTQ, "status", *arguments],
        env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_shows_the_most_frequent_classes(
    engine: Engine, database_url: str, job: int
) -> None:
    job_id = job_of(engine, job).id
    store(engine, job, 0, 281, 281, 281, 0)
    shown = status(database_url, job_id, "--classes")
    assert "tabby  281       3  75.0%" in shown.stdout, shown.stderr
    told = status(database_url, job_id, "--classes", "--top", "1", "--json")
    assert json.loads(told.stdout)["classes"] == [
        {"label": "tabby", "class_id": 281, "images": 3, "share": 0.75}
    ]
    assert "classes" not in json.loads(status(database_url, job_id, "--json").stdout)
    refused = status(database_url, job_id, "--classes", "--top", "0")
    assert (refused.returncode, "--top" in refused.stderr) == (2, True)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_classes_fits_a_terminal(width: int) -> None:
    label = "a label that is longer than a narrow terminal is wide, and then some words more"
    one = ClassCount(label=label, class_id=281, images=1_000_000, share=1.0)
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render_classes([one]))
    assert max(len(line) for line in capture.get().splitlines()) <= width
    assert "1,000,000  100.0%" in capture.get()


def test_a_job_without_results_says_so(engine: Engine, database_url: str, job: int) -> None:
    shown = status(database_url, job_of(engine, job).id, "--classes")
    assert "No image is classified yet." in shown.stdout


def test_a_count_reads_no_results(engine: Engine, job: int) -> None:
    """If the stored counts are complete, `status --classes` takes equally long for any job."""
    store(engine, job, 0, 281, 0)
    fold(engine)
    with engine.begin() as connection:
        connection.execute(delete(results))
        assert connection.scalar(select(func.count()).select_from(results)) == 0
    assert counted(engine, job) == [("tench", 1), ("tabby", 1)]
