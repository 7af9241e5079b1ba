"""`compare`: two jobs' answers to the same images, on both databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, func, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, labels, models, results
from contract.errors import UsageError
from producer.cli.render.compare import render_comparison
from producer.jobs import compare as comparing
from producer.jobs.compare import Comparison, compare
from producer.jobs.job import find_job
from producer.submit.submission import submit

RESNEXTQ = Path(sys.executable).with_name("resnextq")
TABBY, TENCH, FAILED, UNSETTLED = 1, 2, 0, None
Answers = Sequence[int | None]
ANSWERS: tuple[Answers, Answers] = (
    (TABBY, TABBY, TABBY, TENCH, FAILED, TABBY, FAILED, TABBY, UNSETTLED),
    (TABBY, TENCH, TABBY, TENCH, TABBY, FAILED, FAILED, UNSETTLED, TABBY),
)
IMAGES = len(ANSWERS[0])


@pytest.fixture
def engine_with_models(engine: Engine) -> Engine:
    """Two models whose classes have the same labels but different numbers."""
    with engine.begin() as connection:
        for number, shift in ((1, 0), (2, 10)):
            name = {"title": f"m{number}/w", "model": f"m{number}", "weights": "w"}
            connection.execute(insert(models).values(number=number, **name, weights_sha256="00"))
            for class_id, label in ((TABBY, "tabby"), (TENCH, "tench")):
                one = {"model_number": number, "class_id": class_id + shift, "label": label}
                connection.execute(insert(labels).values(one))
    return engine


def store(engine: Engine, job: str, answers: Answers, model: int) -> None:
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        for position, answer in enumerate(answers):
            if answer is UNSETTLED:
                continue
            row = {"job_number": number, "position": position, "attempts": 1}
            row |= {"uri": URIS[position], "ref": f"id-{position % 3}", "settled_at": db_now()}
            if answer == FAILED:
                row |= {"error_code": "http_404"}
            else:
                shift = 10 * (model - 1)
                row |= {"model_number": model, "class_1": answer + shift, "score_1": 0.5}
            connection.execute(insert(results).values(row))


# The first two URIs are equal. The ids repeat every three images.
URIS = ["http://a.example/0", *(f"http://a.example/{n}" for n in range(IMAGES - 1))]


@pytest.fixture
def two(engine_with_models: Engine) -> tuple[str, str]:
    engine = engine_with_models
    both = []
    for model, answers in enumerate(ANSWERS, start=1):
        job = submit(engine, [(uri, None) for uri in URIS])
        store(engine, job, answers, model)
        both.append(job)
    return both[0], both[1]


def compared(engine: Engine, first: str, second: str) -> Comparison:
    with reading(engine) as connection:
        both = find_job(connection, first), find_job(connection, second)
    return compare(engine, *both)


def told(found: Comparison) -> tuple[int, ...]:
    return (
        found.images, found.agree, found.changed, found.failed_first, found.failed_second,
        found.failed_both, found.only_first, found.only_second,
    )  # fmt: skip


def forget_digests(engine: Engine) -> None:
    """Remove the digests, as in jobs of an older version."""
    with engine.begin() as connection:
        connection.execute(update(jobs).values(images_digest=None))


def test_images_of_the_same_list_are_paired_by_position(
    engine: Engine, two: tuple[str, str]
) -> None:
    found = compared(engine, *two)
    assert found.paired_by == "position"
    assert told(found) == (7, 3, 1, 1, 1, 1, 1, 1)
    assert found.agreement == 0.75
    assert [(one.label, one.images, one.agree) for one in found.classes] == [
        ("tabby", 3, 2),
        ("tench", 1, 1),
    ]
    assert [(one.before, one.after, one.images) for one in found.changes] == [("tabby", "tench", 1)]


def test_images_of_different_lists_are_paired_by_ids_in_their_order(
    engine: Engine, two: tuple[str, str]
) -> None:
    forget_digests(engine)
    found = compared(engine, *two)
    assert found.paired_by == "ref"
    assert (found.images, found.only_first, found.only_second) == (7, 1, 1)


def test_without_ids_images_are_paired_by_uri_and_equal_uris_in_order(
    engine: Engine, two: tuple[str, str]
) -> None:
    forget_digests(engine)
    with engine.begin() as connection:
        connection.execute(update(results).values(ref=None))
    found = compared(engine, *two)
    assert found.paired_by == "uri"
    assert told(found) == (7, 3, 1, 1, 1, 1, 1, 1)


def test_the_window_size_does_not_change_the_comparison(
    engine: Engine, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(engine, *two)
    monkeypatch.setattr(comparing, "POSITIONS_AT_ONCE", 2)
    assert compared(engine, *two) == whole


def test_a_job_is_not_compared_with_itself(engine: Engine, two: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        compared(engine, two[0], two[0])


def test_jobs_without_results_have_no_agreement(engine: Engine) -> None:
    first, second = (submit(engine, [("http://a.example/", None)]) for _ in range(2))
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(results)) == 0
    found = compared(engine, first, second)
    assert (found.images, found.agreement, found.classes) == (0, None, [])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_comparison(found, 20))
    assert "0 of 0 that both classified, -" in capture.get()


def test_the_command_prints_a_table_or_json(
    engine: Engine, database_url: str, two: tuple[str, str]
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RESNEXTQ, "compare", *two, *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip

    assert "3 of 4 that both classified, 75.00%" in run().stdout
    assert json.loads(run("--json", "--top", "1").stdout) == {
        "first": two[0], "second": two[1], "paired_by": "position", "images": 7,
        "only_first": 1, "only_second": 1, "agree": 3, "changed": 1, "agreement": 0.75,
        "failed_first": 1, "failed_second": 1, "failed_both": 1,
        "classes": [{"label": "tabby", "images": 3, "agree": 2, "agreement": 0.666667}],
        "changes": [{"from": "tabby", "to": "tench", "images": 1}],
    }  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_tables_fit_a_terminal(engine: Engine, two: tuple[str, str], width: int) -> None:
    long = "a label that is longer than half of a narrow terminal is wide"
    with engine.begin() as connection:
        connection.execute(update(labels).values(label=labels.c.label + long))
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render_comparison(compared(engine, *two), 20))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert any("66.7%" in line for line in lines)
