"""Workers are killed in the middle of a batch, or stopped for longer than their lease."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle, repeat
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from contract.database.tables import chunks
from tests.chaos.process import Process, program_of
from tests.chaos.stack import LOADER, Run, Stack
from tests.chaos.trial import Trial
from tests.chaos.wait import seconds_until, until

FENCED_OFF: Final = "another run has this chunk by now"


def kill(trial: Trial) -> None:
    """Kills the main process, a loader and the whole group in turn."""
    _kill(trial, cycle((_kill_main, _kill_loader, kill_group)))


def kill_at_default_lease(trial: Trial) -> None:
    """Kills the whole group, at the default lease."""
    _kill(trial, repeat(kill_group))


def freeze(trial: Trial) -> None:
    """Stops a worker until it loses its chunks. What it stores afterwards is refused."""
    stack = trial.stack
    with trial.load:
        for _ in trial.rounds():
            victim = trial.random.choice(stack.workers)
            name = _freeze(stack, victim)
            refused = _refusals(victim)
            trial.recovered(_seconds_until_free(stack, name, stack.runs_of(name)))
            victim.signal(signal.SIGCONT)
            _await_refusal(victim, refused)


def _refusals(worker: Process) -> int:
    return worker.said().count(FENCED_OFF)


def _await_refusal(worker: Process, before: int) -> None:
    until("the late store of the stopped worker is refused", lambda: _refusals(worker) > before)


def _kill(trial: Trial, kills: Iterator[Callable[[Stack, Process], None]]) -> None:
    stack = trial.stack
    with trial.load:
        for _ in trial.rounds():
            victim = trial.random.choice(stack.workers)
            with stack.held():
                name = _in_mid_batch(stack, victim)
                runs = stack.runs_of(name)
                next(kills)(stack, victim)
            trial.recovered(_seconds_until_free(stack, name, runs))
            stack.heal()


def _in_mid_batch(stack: Stack, worker: Process) -> str:
    """Returns the worker's name once it runs chunks."""
    name = stack.name_of(worker)
    until(f"{name} runs chunks", lambda: stack.runs_of(name))
    return name


def _kill_main(_: Stack, worker: Process) -> None:
    """Kills the process that runs the chunks: the last one that the command started."""
    main = [pid for pid in worker.pids() if LOADER not in program_of(pid)][-1]
    os.kill(main, signal.SIGKILL)
    until("the supervisor ends with its worker", lambda: not worker.is_running)


def _kill_loader(stack: Stack, worker: Process) -> None:
    stack.kill_loader(worker)


def kill_group(_stack: Stack, worker: Process) -> None:
    worker.end()


def _seconds_until_free(stack: Stack, name: str, held: set[Run]) -> float:
    """Waits until SQL shows none of these runs at the worker."""
    return seconds_until(
        f"the chunks of {name} are taken from it", lambda: not held & stack.runs_of(name)
    )


def _freeze(stack: Stack, worker: Process) -> str:
    """Stops the worker outside of a transaction.

    A worker that stops in a transaction keeps its locks on the chunks, or on SQLite on the whole
    database, until it continues or is cut off.
    """
    while True:
        name = _in_mid_batch(stack, worker)
        worker.freeze()
        if stack.runs_of(name) and _locks_nothing(stack, name):
            return name
        worker.signal(signal.SIGCONT)


def _locks_nothing(stack: Stack, name: str) -> bool:
    theirs = select(chunks.c.chunk).where(chunks.c.state == "running", chunks.c.worker == name)
    try:
        if stack.postgres:
            with stack.engine.begin() as connection:
                connection.execute(theirs.with_for_update(nowait=True)).all()
        else:  # here the engine would wait for a minute
            with closing(sqlite3.connect(str(stack.engine.url.database), timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
    except (DBAPIError, sqlite3.OperationalError):
        return False
    return True
