"""The views `images` and `classes`, which users query in SQL, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert, text

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import class_counts, jobs, labels, models, results

HOSTS = [
    ("http://a.example/cat.jpg", "a.example"),
    ("https://A.Example:8443/cat.jpg?of=http://b.example/", "a.example"),
    ("https://a.example?cat", "a.example"),
    ("https://a.example#cat", "a.example"),
    ("http://[2001:DB8::1]:8080/cat.jpg", "[2001:db8::1]"),
    ("HTTPS://10.0.0.1", "10.0.0.1"),
    ("s3://bucket.of-cats/a/b.jpg", "bucket.of-cats"),
    ("file:///data/cat.jpg", None),
    ("FILE:///data/x://cat.jpg", None),
    ("double:ok", None),
    ("https:///cat.jpg", None),
]


@pytest.fixture
def answers(engine: Engine) -> Engine:
    """A job with one image for each URI. Only the first was classified, as a tabby."""
    job = {
        "number": 1, "id": "JOB", "owner": "me", "priority": 0, "state": "completed",
        "model": "m", "weights": "w", "precision": "fp32", "queue": "q", "created_at": db_now(),
        "total": len(HOSTS), "classified": 1, "failed": len(HOSTS) - 1, "errors": {},
        "images_per_s": 0.0,
    }  # fmt: skip
    model = {"number": 1, "title": "m/w", "model": "m", "weights": "w", "weights_sha256": "0" * 64}
    answer = {"model_number": 1, "class_1": 281, "score_1": 0.75}
    with engine.begin() as connection:
        connection.execute(insert(jobs).values(job))
        connection.execute(insert(models).values(model))
        connection.execute(insert(labels).values(model_number=1, class_id=281, label="tabby"))
        for position, (uri, _) in enumerate(HOSTS):
            row = {"job_number": 1, "position": position, "uri": uri, "attempts": 1}
            row |= answer if position == 0 else {"error_code": "http_404"}
            connection.execute(insert(results).values(row | {"settled_at": db_now()}))
        count = {"job_number": 1, "model_number": 1, "class_id": 281, "images": 1}
        connection.execute(insert(class_counts).values(count))
    return engine


def rows(engine: Engine, statement: str) -> list[tuple[object, ...]]:
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_images_names_the_host_of_each_uri(answers: Engine) -> None:
    found = rows(answers, "SELECT uri, host FROM images WHERE job = 'JOB' ORDER BY position")
    assert found == HOSTS


def test_images_has_a_row_for_each_finished_image_with_its_top_class(answers: Engine) -> None:
    columns = "status, label, class_id, score, error_code, model"
    found = rows(answers, f"SELECT {columns} FROM images ORDER BY position")
    assert found[0] == ("classified", "tabby", 281, 0.75, None, "m/w")
    assert set(found[1:]) == {("failed", None, None, None, "http_404", None)}


def test_classes_counts_a_jobs_images_by_label(answers: Engine) -> None:
    found = rows(answers, "SELECT job, label, class_id, images, model FROM classes")
    assert found == [("JOB", "tabby", 281, 1, "m/w")]
