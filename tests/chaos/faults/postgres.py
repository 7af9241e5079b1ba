"""PostgreSQL is killed under load and starts again at once or a minute later."""

from __future__ import annotations

import time
from typing import Final

from tests.chaos.trial import Trial

AWAY_S: Final = 60.0
SHORT_AWAY_S: Final = 3.0


def kill(trial: Trial) -> None:
    _kill(trial, away_s=0.0)


def stay_away(trial: Trial) -> None:
    _kill(trial, away_s=SHORT_AWAY_S if trial.short else AWAY_S)


def _kill(trial: Trial, *, away_s: float) -> None:
    stack = trial.stack
    assert stack.postgres is not None
    with trial.load:
        for _ in trial.rounds():
            time.sleep(trial.random.uniform(0.5, 2.0))
            stack.postgres.kill()
            time.sleep(away_s)
            stack.postgres.start()
            trial.recovered(stack.seconds_until_progress(stack.now()))
            trial.demand(
                "every worker keeps running", holds=all(one.is_running for one in stack.workers)
            )
