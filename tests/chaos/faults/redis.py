"""Redis is killed, emptied, stopped or cut off; messages are lost or come back."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Final

from tests.chaos.stack import Run, Stack
from tests.chaos.trial import Trial
from tests.chaos.wait import seconds_until, until
from tests.integration.dispatching import Sent, take_if_any

AWAY_S: Final = 60.0
SHORT_AWAY_S: Final = 2.0
# Longer than a socket's timeout, so that every client notices.
CUT_S: Final = 20.0
# Redis is started again within this time after a kill.
LONGEST_RESTART_S: Final = 3.0
APPEND_ONLY: Final = "appendonlydir"


def kill_with_file(trial: Trial) -> None:
    """Kills Redis while it keeps its append-only file."""
    _kill(trial)


def kill_without_file(trial: Trial) -> None:
    """Kills Redis while it has no file, so it comes back empty."""
    trial.stack.valkey.append_only = False
    _restart(trial)
    _kill(trial)
    trial.stack.valkey.append_only = True
    _forget(trial)
    _restart(trial)


def flush(trial: Trial) -> None:
    stack = trial.stack
    with trial.load:
        for _ in trial.rounds():
            waiting = until("messages wait in Redis", stack.queued)
            with stack.valkey.client() as client:
                client.flushall()
            trial.recovered(_seconds_until_moved(stack, waiting))


def put_back_old_file(trial: Trial) -> None:
    """Kills Redis and gives it an older file, so finished messages come again."""
    folder = trial.stack.valkey.folder

    def exchange() -> None:
        shutil.rmtree(folder / APPEND_ONLY)
        shutil.copytree(folder / "old", folder / APPEND_ONLY)

    def keep() -> None:
        shutil.rmtree(folder / "old", ignore_errors=True)
        shutil.copytree(folder / APPEND_ONLY, folder / "old")

    _kill(trial, before=keep, meanwhile=exchange)


def stand_still(trial: Trial) -> None:
    """Stops Redis: connections stay open, but Redis does not answer."""
    stack = trial.stack
    with trial.load:
        for _ in trial.rounds():
            assert stack.valkey.pid is not None
            os.kill(stack.valkey.pid, signal.SIGSTOP)
            time.sleep(SHORT_AWAY_S if trial.short else AWAY_S)
            since = stack.now()
            os.kill(stack.valkey.pid, signal.SIGCONT)
            trial.recovered(stack.seconds_until_progress(since))


def cut_off(trial: Trial) -> None:
    """Drops all packets to Redis; older connections stay half open."""
    stack = trial.stack
    assert stack.proxy is not None
    with trial.load:
        for _ in trial.rounds():
            stack.proxy.cut()
            time.sleep(SHORT_AWAY_S if trial.short else CUT_S)
            since = stack.now()
            stack.proxy.mend()
            trial.recovered(stack.seconds_until_progress(since))


def steal(trial: Trial) -> None:
    """Takes a message from the queue and does nothing with it."""
    stack = trial.stack
    with trial.load:
        stolen = {_steal(stack) for _ in trial.rounds()}
        trial.recovered(_seconds_until_moved(stack, stolen))


def _kill(
    trial: Trial,
    *,
    before: Callable[[], None] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    stack = trial.stack
    with trial.load:
        for _ in trial.rounds():
            before()
            time.sleep(trial.random.uniform(0.5, 1.5))
            waiting = stack.queued()
            stack.valkey.kill()
            meanwhile()
            time.sleep(trial.random.uniform(0.0, LONGEST_RESTART_S))
            since = stack.now()
            stack.valkey.start()
            began = time.monotonic()
            stack.seconds_until_progress(since)
            _seconds_until_moved(stack, waiting)
            trial.recovered(time.monotonic() - began)


def _restart(trial: Trial) -> None:
    trial.stack.valkey.stop()
    trial.stack.valkey.start()


def _forget(trial: Trial) -> None:
    shutil.rmtree(trial.stack.valkey.folder / APPEND_ONLY, ignore_errors=True)


def _steal(stack: Stack) -> Run:
    """Takes the oldest message before a worker does."""
    stolen: Sent = until("a message waits in Redis", lambda: take_if_any(stack.app, stack.queue))
    return stolen.run


def _seconds_until_moved(stack: Stack, waiting: set[Run]) -> float:
    """Waits until each of these runs was taken or published again."""
    return seconds_until(
        "every chunk that waited is taken or published again", lambda: not waiting & stack.queued()
    )
