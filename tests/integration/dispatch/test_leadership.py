"""One of several dispatchers leads, on both databases, and a standby takes over from it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine, update

from contract.database.clock import db_now
from contract.database.tables import leaders
from contract.settings import Settings
from producer.dispatcher.leader import RENEW_S, TERM_S, Leadership
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.publish import publish
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import (
    WITHIN_S,
    Clock,
    add_worker,
    claim_as,
    states,
    submit_chunks,
    take,
    until,
    waiting,
)


def let_term_pass(engine: Engine, clock: Clock) -> None:
    """Move the dispatcher's and the database's clock past the leader's term."""
    clock.seconds += TERM_S
    with engine.begin() as connection:
        connection.execute(update(leaders).values(held_at=db_now(-TERM_S)))


def test_one_dispatcher_leads_and_the_others_stand_by(engine: Engine, caplog) -> None:
    caplog.set_level(logging.INFO)
    first, second = Leadership(), Leadership()
    assert [first.ask(engine), second.ask(engine), second.ask(engine)] == [True, False, False]
    assert [record.getMessage() for record in caplog.records] == [
        f"leading as {first.name}",
        f"standing by: {first.name} leads",
    ]


def test_if_many_start_at_once_one_leads(engine: Engine) -> None:
    several = [Leadership() for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(lambda one: one.ask(engine), several)) == [False] * 7 + [True]


def test_a_leader_renews_its_term(engine: Engine, clock: Clock) -> None:
    first, second = Leadership(), Leadership()
    assert first.ask(engine)
    let_term_pass(engine, clock)
    assert first.ask(engine)
    assert not second.ask(engine)


def test_a_leader_that_did_not_renew_its_term_is_replaced(engine: Engine, clock: Clock) -> None:
    """This happens to a process that was stopped and continues later."""
    first, second = Leadership(), Leadership()
    assert first.ask(engine)
    let_term_pass(engine, clock)
    assert second.ask(engine)
    assert not first.ask(engine)


def test_a_leader_that_stops_is_replaced_at_once(engine: Engine, clock: Clock) -> None:
    first, second = Leadership(), Leadership()
    assert first.ask(engine)
    assert not second.ask(engine)
    first.leave(engine)
    assert second.ask(engine)
    first.leave(engine)  # it leads no longer: this changes nothing
    clock.seconds += RENEW_S
    assert second.ask(engine)


@pytest.fixture
def two(settings: Settings, tmp_path: Path) -> Iterator[tuple[Dispatch, Dispatch]]:
    """Two dispatchers. The first one leads."""
    started: list[Dispatch] = []
    for words in (" leading as ", " standing by: "):
        started.append(Dispatch(settings, tmp_path / f"dispatch-{len(started)}.log"))
        started[-1].await_words(words)
    yield started[0], started[1]
    for dispatcher in started:
        dispatcher.process.kill()
        dispatcher.process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_standby_continues_the_jobs(
    engine: Engine, app: Celery, settings: Settings, two, how: signal.Signals
) -> None:
    leader, standby = two
    leader.process.send_signal(how)
    leader.process.wait(WITHIN_S)
    job = submit_chunks(engine, 3)
    until(lambda: len(waiting(app)) == 3, lambda: standby.said)
    assert states(engine, job) == ["queued"] * 3
    assert " leading as " in standby.said


def test_a_new_leader_has_already_waited_for_silent_workers(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    """As a standby it reached the database for a whole lease, so it need not wait again."""
    add_worker(engine, "dead", age_s=2 * settings.lease_s)
    job = submit_chunks(engine, 1)
    publish(engine, app, settings)
    assert claim_as(engine, "dead", take(app).message)
    leader, standby = Leadership(), Dispatcher(engine, app, settings)
    for _ in range(int(settings.lease_s) + 1):
        clock.seconds += 1
        assert leader.ask(engine)
        standby.tick()
        assert states(engine, job) == ["running"], "a standby takes no chunk back"
    leader.leave(engine)
    clock.seconds += 1
    standby.tick()
    assert states(engine, job) == ["queued"]
    assert take(app).message.generation == 2
