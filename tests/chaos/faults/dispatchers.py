"""The leading dispatcher is killed while another one stands by."""

from __future__ import annotations

import time

from tests.chaos.trial import Trial


def kill(trial: Trial) -> None:
    stack = trial.stack
    other = stack.add_dispatcher()
    other.await_ready()
    with trial.load:
        for _ in trial.rounds():
            time.sleep(trial.random.uniform(0.0, 1.0))
            leader = stack.leader()
            leader.end()
            trial.recovered(stack.seconds_until_progress(stack.now()))
            stack.heal()
    stack.remove_dispatcher(other)
