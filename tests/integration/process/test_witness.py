"""The worker as two processes, a supervisor and a child: what one does when the other ends.

A worker that an image crashed must be told apart from one that was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from contract.broker.message import ALONE_VERSION
from contract.database.engine import reading
from contract.database.tables import chunks, workers
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# test_poison.py tests the SQL side on both databases.
pytestmark = on_sqlite


def child_of(witness: subprocess.Popen[bytes]) -> int:
    """The process id of the worker below its supervisor."""
    children = Path(f"/proc/{witness.pid}/task/{witness.pid}/children").read_text().split()
    (child,) = map(int, children)
    return child


def crashed_by(engine: Engine) -> list[str | None]:
    with reading(engine) as connection:
        return list(connection.scalars(select(workers.c.crashed_by)))


@pytest.mark.parametrize(
    ("how", "told"),
    [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGABRT, "SIGABRT"), (signal.SIGKILL, None)],
)
def test_a_signal_that_an_image_may_have_caused_is_recorded(
    installation: Installation, how: signal.Signals, told: str | None
) -> None:
    witness = installation.start("watched")
    os.kill(child_of(witness), how)
    assert witness.wait(WITHIN_S) == 128 + how
    assert crashed_by(installation.engine) == [told]
    assert f"The worker was ended by {how.name}." in installation.log


def test_a_workers_name_has_the_supervisors_process_id(installation: Installation) -> None:
    witness = installation.start("watched")
    (name,) = installation.workers()
    assert f"-{witness.pid}-" in name


def test_killing_the_supervisor_ends_the_worker(installation: Installation) -> None:
    witness = installation.start("watched")
    worker = child_of(witness)
    witness.kill()
    witness.wait(WITHIN_S)
    until(lambda: not Path(f"/proc/{worker}").exists())
    assert crashed_by(installation.engine) == [None]


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_to_one_or_both_processes_stops_the_worker_in_order(
    installation: Installation, tmp_path: Path, send
) -> None:
    """Ctrl-C and systemd signal both processes. This must not count as a second signal."""
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}"])
    witness = installation.start("watched")
    installation.publish()
    until(gate.with_suffix(".held").exists)
    send(witness.pid, signal.SIGTERM)
    until(lambda: "Stopping within" in installation.log or witness.poll() is not None)
    gate.touch()
    assert witness.wait(WITHIN_S) == 0, installation.log
    installation.await_states("done")
    assert installation.workers() == []


def test_a_second_signal_stops_both_at_once(installation: Installation, tmp_path: Path) -> None:
    gate = tmp_path / "never"
    installation.submit([f"double:hold:{gate}"])
    witness = installation.start("watched", STOP_WITHIN_S="3600")
    installation.publish()
    until(gate.with_suffix(".held").exists)
    witness.terminate()
    until(lambda: "Stopping within" in installation.log)
    witness.terminate()
    assert witness.wait(WITHIN_S) == 1
    assert crashed_by(installation.engine) == [None]


@pytest.fixture
def dispatcher(installation: Installation, tmp_path: Path) -> Iterator[Dispatch]:
    dispatch = Dispatch(installation.settings, tmp_path / "dispatch.log", LEASE_S="1")
    yield dispatch
    dispatch.process.kill()
    dispatch.process.wait()


def test_an_image_that_crashes_the_worker_costs_no_other_image(
    installation: Installation, dispatcher: Dispatch, tmp_path: Path
) -> None:
    """The test restarts workers, as systemd would, until the job is done."""
    installation.submit(["double:ok", "double:crash:SIGSEGV", "double:ok"], ["double:ok"] * 3)
    lives = 0
    while not is_done(installation):
        installation.begin(tmp_path / f"worker-{lives}.log", "watched")
        lives += 1
        until(
            lambda: installation.processes[-1].poll() is not None or is_done(installation),
            lambda: installation.log + dispatcher.said,
        )
    codes = {position: row.error_code for position, row in installation.rows().items()}
    assert codes == {0: None, 1: "crashed", 2: None, 100: None, 101: None, 102: None}
    assert installation.rows()[1].error_detail == "the worker ended with SIGSEGV each time"
    assert lives <= 2 + 3 + 1, "two crashes with other images, three alone, and one more worker"


def is_done(installation: Installation) -> bool:
    return set(installation.states().values()) == {"done"}


def test_an_image_that_runs_alone_waits_for_others_and_they_for_it(
    installation: Installation, tmp_path: Path
) -> None:
    first, alone = tmp_path / "first", tmp_path / "alone"
    installation.submit([f"double:hold:{first}"], [f"double:hold:{alone}"], ["double:ok"])
    installation.start(CHUNKS_IN_FLIGHT="8", CHUNK_IMAGES="1")
    installation.publish(0)
    until(first.with_suffix(".held").exists)
    installation.publish(1, version=ALONE_VERSION)
    until(lambda: installation.states()[1] == "running")
    installation.publish(2)
    until(lambda: installation.unacknowledged() == 3)
    assert installation.states() == {0: "running", 1: "running", 2: "queued"}
    assert alone_generations(installation)[1] is None, "the image that runs alone has not begun"

    first.touch()
    until(alone.with_suffix(".held").exists)
    assert installation.states() == {0: "done", 1: "running", 2: "queued"}
    assert alone_generations(installation)[1] == 1
    alone.touch()
    installation.await_states("done", "done", "done")


def alone_generations(installation: Installation) -> list[int | None]:
    with reading(installation.engine) as connection:
        return list(connection.scalars(select(chunks.c.alone_generation).order_by(chunks.c.chunk)))
