"""A worker whose GPU breaks or hangs ends with status 1, and no image is blamed.

The classifier, its runner and the worker are real. CUDA is a double.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from contract.database.engine import reading
from contract.database.tables import chunks, workers
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def assert_nothing_is_blamed(installation: Installation, process: subprocess.Popen[bytes]) -> None:
    """Check that the worker ended with status 1 and that no image or chunk is blamed.

    Chunk 0 met the fault. Other chunks may have finished before it.
    """
    assert process.wait(WITHIN_S) == 1, installation.log
    states = installation.states()
    assert states[0] in {"pending", "queued"}
    assert set(states.values()) <= {"pending", "queued", "done"}
    done = [chunk for chunk, state in states.items() if state == "done"]
    stored = installation.rows()
    assert {row.error_code for row in stored.values()} <= {None}
    assert Counter(position // 100 for position in stored) == dict.fromkeys(done, 8)
    with reading(installation.engine) as connection:
        assert list(connection.scalars(select(workers.c.crashed_by))) == []
        assert set(connection.scalars(select(chunks.c.deaths))) == {0}
        assert set(connection.scalars(select(chunks.c.attempt))) == {0}


def test_a_broken_gpu_ends_its_worker_and_costs_no_attempt(
    installation: Installation, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    installation.submit([f"double:break:{broken}", "double:ok"], *[["double:ok"] * 8] * 3)
    worker = installation.start("watched", "cuda")
    installation.publish()
    assert_nothing_is_blamed(installation, worker)
    assert "The device is broken: CUDA error: device-side assert triggered" in installation.log

    broken.unlink()
    installation.publish()
    installation.start("watched", "cuda")
    installation.await_states("done", "done", "done", "done")
    assert {row.error_code for row in installation.rows().values()} == {None}
    assert installation.tallied() == len(installation.rows()) == 26


def test_a_hanging_gpu_ends_its_worker_and_costs_no_attempt(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}", "double:ok"], ["double:ok"] * 8)
    worker = installation.start("watched", "cuda")
    installation.publish(0)
    until(gate.with_suffix(".held").exists, lambda: installation.log)
    installation.publish(1)
    assert_nothing_is_blamed(installation, worker)
    assert "The device hangs: it has been computing one batch for" in installation.log


def test_a_signal_caused_by_the_device_is_not_blamed_on_an_image(
    installation: Installation,
) -> None:
    """CUDA ends the process with SIGABRT if it cannot report an error in another way."""
    worker = installation.start("watched", "cuda", "abort")
    installation.submit(["double:break:/"])
    installation.publish()
    assert worker.wait(WITHIN_S) == 128 + 6, installation.log
    with reading(installation.engine) as connection:
        assert list(connection.scalars(select(workers.c.crashed_by))) == [None]
    assert "The cause was its device, not an image: CUDA error: device-side" in installation.log
