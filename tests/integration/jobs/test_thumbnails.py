"""Thumbnails in SQL: how many are kept, how they are found, and how old ones are deleted."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from sqlalchemy import Engine, delete, func, insert, select, text, update

from contract.chunks.results import delete_failed, insert_results
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, labels, results, thumbnails
from contract.errors import UnknownJobError, UsageError
from contract.thumbnails import A_CLASS, ThumbnailRow, delete_old, insert_thumbnails
from producer.jobs.thumbnails import Thumbnail, as_json, find_thumbnails, read_thumbnail
from tests.integration.dispatching import on_postgresql, submit_chunks
from tests.integration.ending import MODEL_NUMBER, register_model

TABBY, TENCH = 281, 0
DAY_S = 86_400.0


@pytest.fixture
def job(engine: Engine) -> int:
    register_model(engine)
    names = [
        {"model_number": MODEL_NUMBER, "class_id": class_id, "label": label}
        for class_id, label in ((TABBY, "tabby"), (TENCH, "tench"))
    ]
    with engine.begin() as connection:
        connection.execute(insert(labels), names)
    job = submit_chunks(engine, 100)
    with engine.begin() as connection:  # as a worker with the model of `register_model`
        connection.execute(update(jobs).values(model="m", weights="w"))
    return job


def id_of(engine: Engine, job: int) -> str:
    with reading(engine) as connection:
        return str(connection.scalar(select(jobs.c.id).where(jobs.c.number == job)))


def classify(engine: Engine, job: int, answers: dict[int, int | str], score: float = 0.5) -> None:
    """Store answers by position: a class id or an error code."""
    rows = []
    for position, answer in answers.items():
        row = dict.fromkeys(column.name for column in results.c if column.name != "settled_at")
        row |= {"job_number": job, "position": position, "attempts": 1}
        row |= {"uri": f"http://a.org/{position}.jpg", "ref": f"ref-{position}"}
        if isinstance(answer, str):
            row |= {"error_code": answer, "error_detail": "why"}
        else:
            row |= {"model_number": MODEL_NUMBER, "class_1": answer, "score_1": score}
            row |= {"class_2": TENCH, "score_2": 0.125}
        rows.append(tuple(row.values()))
    with engine.begin() as connection:
        insert_results(connection, rows)


def keep(
    engine: Engine,
    job: int,
    positions: Iterable[int],
    *,
    jpeg: bytes = b"a picture",
    sampled: bool = True,
) -> None:
    rows = [ThumbnailRow(job, position, sampled, jpeg) for position in positions]
    with engine.begin() as connection:
        insert_thumbnails(connection, rows)


def find(engine: Engine, job: int, **choice: object) -> list[Thumbnail]:
    with reading(engine) as connection:
        return find_thumbnails(connection, id_of(engine, job), **choice)  # type: ignore[arg-type]


def found(engine: Engine, job: int, **choice: object) -> list[int]:
    return [one.position for one in find(engine, job, **choice)]


def read(engine: Engine, job: int, position: int) -> bytes | None:
    with reading(engine) as connection:
        return read_thumbnail(connection, id_of(engine, job), position)


def kept(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(thumbnails)) or 0


def test_a_thumbnail_comes_with_its_images_answer(engine: Engine, job: int) -> None:
    classify(engine, job, {3: TABBY, 5: "not_finite"})
    keep(engine, job, [3, 5])
    tabby, failed = (as_json(one) for one in find(engine, job))
    assert tabby == {
        "position": 3,
        "uri": "http://a.org/3.jpg",
        "ref": "ref-3",
        "status": "classified",
        "top5": [
            {"label": "tabby", "class_id": TABBY, "score": 0.5},
            {"label": "tench", "class_id": TENCH, "score": 0.125},
        ],
    }
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "not_finite", "detail": "why"}
    assert read(engine, job, 3) == b"a picture"


def test_pages_and_filters(engine: Engine, job: int) -> None:
    classify(engine, job, {n: TABBY if n % 2 else TENCH for n in range(8)})
    classify(engine, job, {8: TABBY}, score=0.9)
    classify(engine, job, {9: "not_finite"})
    keep(engine, job, range(10))
    assert found(engine, job, limit=4) == [0, 1, 2, 3]
    assert found(engine, job, limit=4, after=3) == [4, 5, 6, 7]
    assert found(engine, job, after=9) == []
    assert found(engine, job, label="tabby") == [1, 3, 5, 7, 8]
    assert found(engine, job, label="tabby", min_score=0.9) == [8]
    assert found(engine, job, only="failed") == [9]
    assert found(engine, job, only="classified", after=7) == [8]


def test_unknown_labels_and_jobs_are_errors(engine: Engine, job: int) -> None:
    classify(engine, job, {0: TABBY})
    with pytest.raises(UsageError, match="tabby"):
        found(engine, job, label="tabb")
    with reading(engine) as connection, pytest.raises(UnknownJobError):
        find_thumbnails(connection, "0000000000000000")


def test_there_is_no_thumbnail_of_another_image_or_job(engine: Engine, job: int) -> None:
    classify(engine, job, {0: TABBY})
    keep(engine, job, [0])
    assert read(engine, job, 1) is None
    with reading(engine) as connection:
        assert read_thumbnail(connection, "0000000000000000", 0) is None


def test_an_image_without_a_result_gets_no_thumbnail(engine: Engine, job: int) -> None:
    """The result is missing if its chunk was not stored or its job is being deleted."""
    keep(engine, job, [0])
    assert kept(engine) == 0


def test_a_later_thumbnail_replaces_the_first(engine: Engine, job: int) -> None:
    classify(engine, job, {0: "not_finite"})
    keep(engine, job, [0], jpeg=b"first")
    with engine.begin() as connection:
        delete_failed(connection, job, 0, 64, [])
    assert found(engine, job) == []  # an image being retried has no answer
    classify(engine, job, {0: TABBY})
    keep(engine, job, [0], jpeg=b"second")
    assert (kept(engine), read(engine, job, 0)) == (1, b"second")
    assert [one.label for one in find(engine, job)] == ["tabby"]


def test_a_class_gets_a_limited_number_of_thumbnails(engine: Engine, job: int) -> None:
    """Otherwise each worker would add one when it first sees the class."""
    classify(engine, job, dict.fromkeys(range(10), TABBY) | dict.fromkeys(range(10, 20), TENCH))
    for position in range(20):
        keep(engine, job, [position], sampled=False)
    assert found(engine, job) == [*range(A_CLASS), *range(10, 10 + A_CLASS)]
    keep(engine, job, [9])
    assert found(engine, job, label="tabby") == [0, 1, 9]


def test_thumbnails_are_deleted_with_their_job(engine: Engine, job: int) -> None:
    classify(engine, job, {0: TABBY})
    keep(engine, job, [0])
    with engine.begin() as connection:
        connection.execute(delete(jobs).where(jobs.c.number == job))
    assert kept(engine) == 0


def test_old_thumbnails_are_deleted_in_parts(engine: Engine, job: int) -> None:
    classify(engine, job, dict.fromkeys(range(6), TABBY))
    keep(engine, job, range(6))
    with engine.begin() as connection:
        old = update(thumbnails).where(thumbnails.c.position < 5)
        connection.execute(old.values(created_at=db_now(-2 * DAY_S)))
    deleted = []
    for _ in range(3):
        with engine.begin() as connection:
            deleted.append(delete_old(connection, DAY_S, most=3))
    assert deleted == [3, 2, 0]
    assert found(engine, job) == [5]


@on_postgresql
def test_postgresql_does_not_try_to_compress_a_jpeg(engine: Engine) -> None:
    storage = text(
        "SELECT attstorage FROM pg_attribute "
        "WHERE attrelid = 'thumbnails'::regclass AND attname = 'jpeg'"
    )
    with reading(engine) as connection:
        assert connection.scalar(storage) == "e"  # external
