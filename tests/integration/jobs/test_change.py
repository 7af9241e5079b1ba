"""Jobs that are paused, resumed, edited, or stopped because too many images fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, select, update

from contract.database.engine import reading
from contract.database.tables import chunks, jobs
from contract.errors import JobStateError, UnknownJobError, UsageError
from contract.settings import Settings
from producer.dispatcher.end import LEAST_SETTLED, stop_failing
from producer.dispatcher.publish import publish
from producer.jobs.change import edit, pause, resume
from producer.jobs.job import Job, read_job
from producer.submit.sources.entry import Entry
from producer.submit.submission import Order, submit, submit_entries


def make_job(engine: Engine, images: int = 3, **options: Any) -> str:
    entries = (Entry(f"https://a.org/{n}", None, "", 0) for n in range(images))
    order = Order.of(
        Settings(chunk_images=1), name=None, key=None, priority=0, owner="ann", **options
    )
    return submit_entries(engine, entries, order).job


def look(engine: Engine, job: str) -> Job:
    with reading(engine) as connection:
        number = connection.execute(select(jobs.c.number).where(jobs.c.id == job)).scalar_one()
        return read_job(connection, number)


def set_job(engine: Engine, job: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job).values(**values))


def states(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.scalars(select(chunks.c.state).order_by(chunks.c.job_number)))


def test_a_paused_job_waits_and_others_do_not(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    first, second = make_job(engine), make_job(engine, 2)
    paused = pause(engine, first)
    assert (paused.state, paused.paused_at is not None) == ("running", True)
    assert pause(engine, first).paused_at == paused.paused_at
    assert publish(engine, app, settings) == 2
    assert states(engine) == ["pending"] * 3 + ["queued"] * 2
    assert resume(engine, first).paused_at is None
    assert resume(engine, first).paused_at is None
    assert publish(engine, app, settings) == 3
    assert look(engine, second).paused_at is None


@pytest.mark.parametrize("change", [pause, resume])
@pytest.mark.parametrize("state", ["completed", "cancelled", "expired"])
def test_an_ended_job_is_not_paused_or_resumed(
    engine: Engine, change: Callable[[Engine, str], Job], state: str
) -> None:
    job = make_job(engine)
    set_job(engine, job, state=state)
    with pytest.raises(JobStateError, match=f"{job} is already {state}"):
        change(engine, job)
    with pytest.raises(UnknownJobError):
        change(engine, "0123456789abcdef")


def test_name_priority_and_tags_are_changed(engine: Engine) -> None:
    job = make_job(engine, tags={"team": "red", "run": "7"})
    assert look(engine, job).tags == {"run": "7", "team": "red"}
    changed = edit(engine, job, name="new", priority=-5, tags={"team": "blue"}, untag=["run"])
    assert (changed.name, changed.priority, changed.tags) == ("new", -5, {"team": "blue"})
    assert edit(engine, job, name="") == look(engine, job)
    assert look(engine, job).name is None
    set_job(engine, job, state="completed")
    assert edit(engine, job, tags={"seen": "yes"}).tags == {"seen": "yes", "team": "blue"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a name with two lines": ({"name": "a\nb"}, "printable"),
    "a priority that is too high": ({"priority": 1001}, "from -1000 to 1000"),
    "a key with a blank": ({"tags": {"a b": "c"}}, "got 'a b'"),
    "an empty value": (
        {"tags": {"a": ""}},
        "tag a must have 1 to 200 printable characters, got ''",
    ),
    "too many tags": ({"tags": {f"t{n}": "v" for n in range(33)}}, "at most 32 tags, got 33"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_invalid_values_change_nothing(
    engine: Engine, values: dict[str, Any], message: str
) -> None:
    job = make_job(engine, tags={"team": "red"})
    before = look(engine, job)
    with pytest.raises(UsageError, match=message):
        edit(engine, job, untag=["team"], **values)
    assert look(engine, job) == before
    with pytest.raises(UsageError, match=message):
        make_job(engine, **values) if "tags" in values else submit(
            engine, [("https://a.org/1", None)], **values
        )


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_an_invalid_share_is_refused(engine: Engine, share: float) -> None:
    with pytest.raises(UsageError, match="above 0% and up to 100%"):
        make_job(engine, stop_at_failures=share)


def test_a_job_with_too_many_failures_is_stopped(engine: Engine, caplog) -> None:
    limited, small, lucky, unlimited = (
        make_job(engine, **({"stop_at_failures": 0.2} if n < 3 else {})) for n in range(4)
    )
    counts = {
        limited: (LEAST_SETTLED - 20, 20),
        small: (0, LEAST_SETTLED - 1),  # too few results to judge
        lucky: (LEAST_SETTLED - 19, 19),
        unlimited: (0, LEAST_SETTLED),
    }
    for job, (classified, failed) in counts.items():
        set_job(engine, job, classified=classified, failed=failed, total=10_000)
    assert stop_failing(engine) == [limited]
    assert stop_failing(engine) == []
    assert f"Stopping job {limited}: 20 of {LEAST_SETTLED} images failed." in caplog.text
    found = {job: look(engine, job).state for job in counts}
    assert found == {limited: "cancelled", small: "running", lucky: "running", unlimited: "running"}
