"""The SQL that the documents show runs on both databases and finds what it says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text

from contract.database.engine import reading
from contract.database.tables import jobs, labels, models, results

ROOT = Path(__file__).parents[3]
STATEMENTS = {
    f"{document.name}-{number}": statement
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, statement in enumerate(
        re.findall(r"```sql\n(.*?)```", document.read_text(), re.DOTALL), start=1
    )
}
TABBY = 281
NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB = {
    "number": 1, "id": "JOB", "owner": "me", "priority": 0, "state": "completed",
    "model": "m", "weights": "w", "precision": "fp32", "queue": "q", "created_at": NOW,
    "total": 3, "classified": 2, "failed": 1, "errors": {}, "images_per_s": 0.0,
}  # fmt: skip
SETTLED = {"job_number": 1, "attempts": 1, "settled_at": NOW}
CAT = SETTLED | {
    "model_number": 1, "precision": "fp32", "sha256": "0" * 64, "ref": "cat-1",
    "class_1": TABBY, "score_1": 0.75, "class_2": 0, "score_2": 0.25,
}  # fmt: skip


@pytest.fixture
def answers(engine: Engine) -> Engine:
    """Two copies of a cat, and a dead link."""
    rows = [
        CAT | {"position": 0, "uri": "http://example.org/cat.jpg"},
        CAT | {"position": 1, "uri": "http://example.org/copy.jpg"},
        SETTLED | {"position": 2, "uri": "http://example.org/gone.jpg", "error_code": "http_404"},
    ]
    model = {"number": 1, "title": "m/w", "model": "m", "weights": "w", "weights_sha256": "0" * 64}
    with engine.begin() as connection:
        connection.execute(insert(jobs).values(JOB))
        connection.execute(insert(models).values(model))
        for class_id, label in ((TABBY, "tabby"), (0, "tench")):
            row = {"model_number": 1, "class_id": class_id, "label": label}
            connection.execute(insert(labels).values(row))
        for row in rows:
            connection.execute(insert(results).values(row))
    return engine


def test_the_documents_show_some_sql() -> None:
    assert any(name.startswith("README") for name in STATEMENTS)
    assert any(name.startswith("how-to") for name in STATEMENTS)


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_documented_statement_finds_rows(answers, name) -> None:
    with reading(answers) as connection:
        assert connection.execute(text(STATEMENTS[name])).all()


def test_the_readmes_first_statement_finds_the_cats(answers) -> None:
    with reading(answers) as connection:
        found = connection.execute(text(STATEMENTS["README.md-1"])).all()
    assert sorted(found) == [
        ("http://example.org/cat.jpg", 0.75),
        ("http://example.org/copy.jpg", 0.75),
    ]
