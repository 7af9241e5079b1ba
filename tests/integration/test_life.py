"""Jobs survive any order of moves and faults, on both databases: see `tests.integration.life`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from celery import Celery
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine, event, insert

from contract.database.engine import make_engine
from contract.database.tables import models
from contract.settings import Settings
from tests.integration.dispatching import Clock
from tests.integration.ending import CLASSIFIED, MODEL_NUMBER, failed
from tests.integration.life import FINAL, Life
from tests.profiles import LONG

# Every run of the suite tests the same lives, without shrinking, which takes minutes. With
# --hypothesis-profile=long there are many more lives, and new ones each time.
BRIEF = hypothesis_settings(
    max_examples=20,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
)

Moves = list[tuple[str, dict[str, Any]]]
DELIVERED: Moves = [("dispatch", {"ticks": 1, "due": True}), ("deliver", {"whose": [0]})]
FAILED: Moves = [*DELIVERED, ("settle_all", {"which": 0, "outcome": failed(FINAL)})]
FROZEN: Moves = [*DELIVERED, ("end", {"which": 0, "how": "freeze"})]
FROZEN_AND_REAPED: Moves = [*FROZEN, ("dispatch", {"ticks": 1, "due": False})]
KILLED: Moves = [*DELIVERED, ("end", {"which": 0, "how": "kill"})]
CRASHED: Moves = [*DELIVERED, ("end", {"which": 0, "how": "crash"})]
STORE: tuple[str, dict[str, Any]] = ("settle_all", {"which": 0, "outcome": CLASSIFIED})
LIVES: dict[str, Moves] = {
    "a message comes after its chunk was published again": [
        ("dispatch", {"ticks": 1, "due": True}),
        ("lose", {"everything": True}),
        ("dispatch", {"ticks": 2, "due": False}),
        ("deliver_late_or_again", {"message": 0, "which": 0}),
    ],
    "a message comes twice": [
        *DELIVERED,
        ("deliver_late_or_again", {"message": 0, "which": 1}),
        STORE,
        ("deliver_late_or_again", {"message": 0, "which": 1}),
    ],
    "a frozen worker stores a chunk that another worker runs": [
        *FROZEN_AND_REAPED,
        ("deliver", {"whose": [1]}),
        STORE,
        STORE,
    ],
    "a frozen worker stores its old run of a chunk that it runs again": [
        *FROZEN_AND_REAPED,
        ("deliver", {"whose": [0]}),
        STORE,
        STORE,
    ],
    "a frozen worker stores a chunk that was reaped but not published again": [
        *FROZEN,
        ("dispatch_without_redis", {}),
        STORE,
    ],
    "a frozen worker stores a chunk that the dispatcher has finished": [
        *FROZEN_AND_REAPED,
        ("cancel", {"which": 0}),
        ("dispatch", {"ticks": 1, "due": False}),
        STORE,
    ],
    "a retry before the tally is folded": [*FAILED, ("retry", {"which": 0, "codes": ()})],
    "a retry of a completed job": [
        *FAILED,
        ("dispatch", {"ticks": 1, "due": False}),
        ("retry", {"which": 0, "codes": (FINAL,)}),
    ],
    "one image crashes its worker each time": [*KILLED, *KILLED, *CRASHED * 6],
    "one crash and six kills": [*CRASHED, *KILLED * 6],
    "a message of a cancelled job": [
        ("dispatch", {"ticks": 1, "due": True}),
        ("cancel", {"which": 0}),
        ("deliver", {"whose": [0]}),
    ],
}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine whose commits do not wait for the disk, since these tests cut no power."""
    engine = make_engine(database_url)
    event.listen(engine, "connect", _forget_the_disk)
    name = {"title": "m/w", "model": "m", "weights": "w", "weights_sha256": "00"}
    with engine.begin() as connection:
        connection.execute(insert(models).values(number=MODEL_NUMBER, **name))
    yield engine
    engine.dispose()


def _forget_the_disk(connection: Any, _record: object) -> None:
    is_sqlite = type(connection).__module__.startswith("sqlite3")
    connection.execute("PRAGMA synchronous = OFF" if is_sqlite else "SET synchronous_commit = off")
    if not is_sqlite:
        connection.commit()


@pytest.fixture
def life(engine: Engine, app: Celery, settings: Settings, clock: Clock, caplog) -> partial[Life]:
    """Makes a life on empty tables, without logging its thousands of faults."""
    caplog.set_level(logging.CRITICAL)
    return partial(Life, engine, app, settings, clock)


def test_after_any_moves_counts_add_up_and_every_image_has_one_row(
    life: partial[Life],
) -> None:
    is_long = hypothesis_settings.get_current_profile_name() == LONG
    lives = hypothesis_settings.get_profile(LONG) if is_long else BRIEF
    run_state_machine_as_test(life, settings=lives)


def test_the_same_holds_in_lives_that_are_rare_by_chance(life: partial[Life]) -> None:
    for name, moves in LIVES.items():
        lived = life()
        lived.begin(images=2)
        lived.compare()
        for move, arguments in moves:
            try:
                getattr(lived, move)(**arguments)
                lived.compare()
            except AssertionError as error:
                error.add_note(f"{name}: {move}")
                raise
        lived.teardown()
