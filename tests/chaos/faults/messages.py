"""Every message is delivered more than once."""

from __future__ import annotations

import sys
from typing import Final

from tests.chaos.copying_dispatcher import SENT
from tests.chaos.stack import DISPATCH
from tests.chaos.trial import Trial
from tests.chaos.wait import until

COPYING: Final = (sys.executable, "-m", "tests.chaos.copying_dispatcher")
IMAGES: Final = 320


def twice(trial: Trial) -> None:
    _copy(trial, 2)


def ten_times_at_once(trial: Trial) -> None:
    """Two workers with free threads get the copies."""
    _copy(trial, 10)


def _copy(trial: Trial, copies: int) -> None:
    """Submits `times` jobs to a dispatcher that sends each message `copies` times."""
    stack = trial.stack
    dispatcher = stack.dispatchers[0]
    dispatcher.exchange(COPYING, CHAOS_COPIES=str(copies))
    before = stack.messages()
    for _ in trial.rounds():
        trial.load.submit(stack.pictures.plain(IMAGES, trial.random))
    trial.load.finish()
    until("every copy has been taken and acknowledged", lambda: stack.messages() <= before)
    trial.demand("the dispatcher copies messages", holds=SENT in dispatcher.said())
    dispatcher.exchange(DISPATCH)
