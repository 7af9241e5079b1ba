"""The dispatcher deletes old thumbnails, a part at a time."""

from __future__ import annotations

import pytest
from celery import Celery
from sqlalchemy import Engine, func, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import thumbnails
from contract.settings import Settings
from producer.dispatcher import old_thumbnails
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.old_thumbnails import LOOK_AGAIN_S, OldThumbnails
from tests.integration.dispatching import Clock, submit_chunks

DAY_S = 86_400.0


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(old_thumbnails, "time", clock)
    return clock


def keep(engine: Engine, job: int, ages_days: list[float]) -> None:
    with engine.begin() as connection:
        for position, age in enumerate(ages_days):
            row = {"job_number": job, "position": position, "jpeg": b"a picture"}
            created = db_now(-age * DAY_S)
            connection.execute(insert(thumbnails).values(**row, created_at=created))


def kept(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(thumbnails)) or 0


def test_old_thumbnails_are_deleted_in_parts_and_then_checked_once_a_minute(
    engine: Engine, moved
) -> None:
    job = submit_chunks(engine, 1)
    keep(engine, job, [3.0, 4.0, 5.0, 6.0, 7.0, 1.0])
    old = OldThumbnails(2.0, at_once=2)
    assert [old.delete(engine) for _ in range(3)] == [2, 2, 1]
    assert kept(engine) == 1
    with engine.begin() as connection:
        connection.execute(update(thumbnails).values(created_at=db_now(-3 * DAY_S)))
    assert old.delete(engine) == 0
    moved.seconds += LOOK_AGAIN_S
    assert (old.delete(engine), kept(engine)) == (1, 0)


def test_the_leading_dispatcher_deletes_them(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_chunks(engine, 1)
    keep(engine, job, [0.0, 29.0, 31.0])
    Dispatcher(engine, app, settings).tick()
    assert kept(engine) == 2
