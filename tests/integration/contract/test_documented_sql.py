"""The SQL in the documentation runs on both databases, finds the right rows, and finds them fast.

"Fast" means the query plans: no statement that names a label or a job reads all of `results`.
`benchmarks/system/sql.py` makes the rows, and measures the statements on a million of them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, text

from benchmarks.system.sql import analyze, documented, fill, plan_of, times_all_is_read
from contract.database.engine import reading
from contract.database.tables import class_counts, jobs, labels, models, results

# The README asks for a class of the demo's pictures, and the other pages for a cat.
STATEMENTS = {name: sql.replace("'espresso'", "'tabby'") for name, sql in documented().items()}
NAMES_ONE = sorted(name for name, sql in STATEMENTS.items() if "label =" in sql or "job =" in sql)
# Enough rows for PostgreSQL to use its indexes.
ROWS = 50_000
TABBY = 281
NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB = {
    "number": 1, "id": "JOB", "owner": "me", "priority": 0, "state": "completed",
    "model": "m", "weights": "w", "precision": "fp32", "queue": "q", "created_at": NOW,
    "total": 3, "classified": 2, "failed": 1, "errors": {}, "images_per_s": 0.0,
}  # fmt: skip
SETTLED = {"job_number": 1, "attempts": 1, "settled_at": NOW, "worker": "w1"}
CAT = SETTLED | {
    "model_number": 1, "precision": "fp32", "sha256": "0" * 64, "ref": "cat-1",
    "class_1": TABBY, "score_1": 0.75, "class_2": 0, "score_2": 0.25,
    "bytes": 100, "width": 4, "height": 3,
}  # fmt: skip


@pytest.fixture
def answers(engine: Engine) -> Engine:
    """A job with two copies of a cat and a dead link. Another job calls the cat a tench."""
    rows = [
        CAT | {"position": 0, "uri": "http://example.org/cat.jpg"},
        CAT | {"position": 1, "uri": "http://example.org/copy.jpg"},
        SETTLED | {"position": 2, "uri": "http://example.org/gone.jpg", "error_code": "http_404"},
        CAT | {"job_number": 2, "position": 0, "uri": "http://example.org/cat.jpg", "class_1": 0},
    ]
    model = {"number": 1, "title": "m/w", "model": "m", "weights": "w", "weights_sha256": "0" * 64}
    count = {"job_number": 1, "model_number": 1, "class_id": TABBY, "images": 2}
    with engine.begin() as connection:
        connection.execute(insert(jobs).values(JOB))
        connection.execute(insert(jobs).values(JOB | {"number": 2, "id": "OTHER"}))
        connection.execute(insert(models).values(model))
        for class_id, label in ((TABBY, "tabby"), (0, "tench")):
            row = {"model_number": 1, "class_id": class_id, "label": label}
            connection.execute(insert(labels).values(row))
        for row in rows:
            connection.execute(insert(results).values(row))
        connection.execute(insert(class_counts).values(count))
    return engine


def test_the_documentation_has_sql() -> None:
    assert any(name.startswith("README") for name in STATEMENTS)
    assert len([name for name in STATEMENTS if name.startswith("results")]) >= 10


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_documented_statement_finds_rows(answers, name) -> None:
    with reading(answers) as connection:
        assert connection.execute(text(STATEMENTS[name])).all()


def test_the_readmes_first_statement_finds_the_cats(answers) -> None:
    with reading(answers) as connection:
        found = connection.execute(text(STATEMENTS["README.md-1"])).all()
    assert sorted(found) == [
        ("http://example.org/cat.jpg", "tabby", 0.75),
        ("http://example.org/copy.jpg", "tabby", 0.75),
    ]


# The first columns that each statement of docs/results.md finds in `answers`.
FOUND = {
    "results.md-1": {("http://example.org/cat.jpg", 0.75), ("http://example.org/copy.jpg", 0.75)},
    "results.md-2": {("cat-1", 1, 0.75)},
    "results.md-3": {("tabby", 2)},
    "results.md-4": {(1, "tabby", 0.75), (2, "tench", 0.25)},
    "results.md-5": {
        ("http://example.org/cat.jpg", "tabby", 0.75),
        ("http://example.org/copy.jpg", "tabby", 0.75),
    },
    "results.md-6": {
        ("http://example.org/cat.jpg", "tabby", 0.75, "tench", 0.25),
        ("http://example.org/copy.jpg", "tabby", 0.75, "tench", 0.25),
    },
    "results.md-7": {("0" * 64, 2, "http://example.org/cat.jpg")},
    "results.md-8": {("example.org", "http_404", 1)},
    "results.md-9": {("example.org", 2, 100, 12)},
    "results.md-10": {("w1", 3)},
    "results.md-11": {("http://example.org/cat.jpg", "tabby", "tench")},
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_statement_of_the_results_page_finds_the_right_rows(answers, name) -> None:
    with reading(answers) as connection:
        found = connection.execute(text(STATEMENTS[name])).all()
    columns = len(next(iter(FOUND[name])))
    assert {tuple(row)[:columns] for row in found} == FOUND[name]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    fill(engine, ROWS)
    analyze(engine)
    engine.dispose()
    return engine


def test_statements_with_a_label_or_job_do_not_read_all_results(filled) -> None:
    assert {"README.md-1", *(name for name in STATEMENTS if name.startswith("results"))} <= set(
        NAMES_ONE
    )
    plans = {name: plan_of(filled, STATEMENTS[name]) for name in NAMES_ONE}
    assert {name for name, plan in plans.items() if times_all_is_read(plan)} == set(), plans
    assert "ix_results_model_number_class_1" in plans["README.md-1"]
    # A statement that must read all of them is recognised.
    assert times_all_is_read(plan_of(filled, "SELECT sum(attempts) FROM results")) == 1
