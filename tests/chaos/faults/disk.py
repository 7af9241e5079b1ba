"""The database's disk fills up, and later has room again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from contract.database.engine import reading
from contract.database.tables import results
from tests.chaos.stack import RESNEXTQ
from tests.chaos.trial import Trial
from tests.chaos.wait import until

WAITING: Final = "does not answer; retrying"
UNAVAILABLE: Final = 3  # exit status: try again later
IMAGES: Final = 20_000


def fill(trial: Trial) -> None:
    """A submit fails and prints why. Workers wait, and store their results once there is room."""
    stack = trial.stack
    assert stack.data is not None
    ballast = stack.data / "ballast"
    with trial.load:
        for _ in trial.rounds():
            said = _warnings(trial)
            _take_all_space(ballast)
            until("a worker waits for room", lambda said=said: _warnings(trial) > said)
            _submit_in_vain(trial)
            trial.demand(
                "every worker keeps running", holds=all(one.is_running for one in stack.workers)
            )
            since = _rows(trial)
            ballast.unlink()
            began = time.monotonic()
            until("rows are stored again", lambda since=since: _rows(trial) > since)
            trial.recovered(time.monotonic() - began)


def _take_all_space(ballast: Path) -> None:
    """Fills the disk in ever smaller blocks, because the database writes at the same time."""
    block = 2**20
    with ballast.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(bytes(block))
            except OSError:
                block //= 2


def _warnings(trial: Trial) -> int:
    return sum(worker.said().count(WAITING) for worker in trial.stack.workers)


def _submit_in_vain(trial: Trial) -> None:
    """Submits more images than the disk has room for."""
    uris = "\n".join(trial.stack.pictures.plain(IMAGES, trial.random))
    done = subprocess.run(
        [RESNEXTQ, "submit", "-"],
        env=trial.stack.environment,
        input=uris,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stderr.strip()
    clear = done.returncode == UNAVAILABLE and "Traceback" not in told
    trial.demand(
        f"submit exits with {UNAVAILABLE} and says why, got {done.returncode}: {told}", holds=clear
    )


def _rows(trial: Trial) -> int:
    with reading(trial.stack.engine) as connection:
        return connection.scalar(select(func.count()).select_from(results)) or 0
