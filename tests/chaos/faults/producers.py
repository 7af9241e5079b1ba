"""A submit is killed at any point, then repeated with the same key."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import func, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunks, jobs
from producer.submit.draft import SILENT_S
from tests.chaos.job import Image, Job, name_images
from tests.chaos.stack import RESNEXTQ, Stack
from tests.chaos.trial import Trial

# Three transactions; in the shortened run, two.
IMAGES: Final = 9_000
SHORT_IMAGES: Final = 4_200
# Most submits of this size take less.
LONGEST_S: Final = 3.0
KILLS_A_KEY: Final = 10


def kill(trial: Trial) -> None:
    """Kills up to ten submits of one key, then lets one finish."""
    left = trial.times
    while left:
        kills = min(left, KILLS_A_KEY)
        _submit_at_last(trial, f"key-{uuid4()}", kills)
        left -= kills


def _submit_at_last(trial: Trial, key: str, kills: int) -> None:
    stack = trial.stack
    uris = stack.pictures.plain(SHORT_IMAGES if trial.short else IMAGES, trial.random)
    listed = stack.folder / f"{key}.txt"
    images = name_images(uris, trial.random)
    listed.write_text("".join(map(_line, images)))
    for _ in range(kills):
        _let_pass(stack, SILENT_S + 1)
        _kill_submit(stack, key, listed, after_s=trial.random.uniform(0.0, LONGEST_S))
        trial.caused += 1
        trial.demand(
            "no chunk of an unfinished submit is published", holds=not _published_of_drafts(stack)
        )
    done = subprocess.run(
        _command(key, listed), env=stack.environment, capture_output=True, text=True, check=False
    )
    trial.demand(f"the last submit succeeds; it printed {done.stderr}", holds=done.returncode == 0)
    trial.load.jobs.append(Job(id=done.stdout.strip(), images=images))


def _line(image: Image) -> str:
    uri, ref = image
    return f"{uri}\n" if ref is None else f"{uri}\t{ref}\n"


def _command(key: str, listed: Path) -> list[str]:
    return [RESNEXTQ, "submit", str(listed), "--key", key]


def _kill_submit(stack: Stack, key: str, listed: Path, *, after_s: float) -> None:
    with subprocess.Popen(
        _command(key, listed),
        env=stack.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as submitting:
        time.sleep(after_s)
        submitting.kill()


def _let_pass(stack: Stack, seconds: float) -> None:
    """Makes the killed submit count as dead, so that the next one need not wait.

    Only the last submit waits.
    """
    with stack.engine.begin() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.state == "submitting")
            .values(submit_heartbeat_at=db_now(-seconds))
        )


def _published_of_drafts(stack: Stack) -> int:
    """Counts chunks that were published while their job was still being submitted."""
    statement = (
        select(func.count())
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(jobs.c.state == "submitting", chunks.c.generation > 0)
    )
    with reading(stack.engine) as connection:
        return connection.scalar(statement) or 0
