"""A worker whose GPU breaks or hangs: it ends with status 1, and no image is to blame.

The classifier, its runner and the worker around them are the real ones; CUDA is a double.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import select

from contract.database.engine import reading
from contract.database.tables import chunks, workers
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def assert_nobody_is_blamed(installation: Installation, process: subprocess.Popen[bytes]) -> None:
    assert process.wait(WITHIN_S) == 1, installation.log
    assert installation.rows() == {}
    assert set(installation.states().values()) <= {"pending", "queued"}
    with reading(installation.engine) as connection:
        assert list(connection.scalars(select(workers.c.crashed_by))) == []
        assert set(connection.scalars(select(chunks.c.deaths))) == {0}
        assert set(connection.scalars(select(chunks.c.attempt))) == {0}


def test_a_gpu_that_breaks_ends_its_worker_with_status_1_and_costs_no_image_an_attempt(
    installation: Installation, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    installation.submit([f"double:break:{broken}", "double:ok"], *[["double:ok"] * 8] * 3)
    worker = installation.start("watched", "cuda")
    installation.publish()
    assert_nobody_is_blamed(installation, worker)
    assert "The device is broken: CUDA error: device-side assert triggered" in installation.log

    broken.unlink()
    installation.publish()
    installation.start("watched", "cuda")
    installation.await_states("done", "done", "done", "done")
    assert {row.error_code for row in installation.rows().values()} == {None}
    assert installation.tallied() == len(installation.rows()) == 26


def test_a_gpu_that_hangs_ends_its_worker_and_another_goes_on(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}", "double:ok"], ["double:ok"] * 8)
    worker = installation.start("watched", "cuda")
    installation.publish(0)
    until(gate.with_suffix(".held").exists, lambda: installation.log)
    installation.publish(1)
    assert_nobody_is_blamed(installation, worker)
    assert "The device hangs: it has had a batch for" in installation.log


def test_a_signal_that_the_device_sends_is_no_crash_of_an_image(installation: Installation) -> None:
    """CUDA ends a process by SIGABRT where it cannot tell an error otherwise."""
    worker = installation.start("watched", "cuda", "abort")
    installation.submit(["double:break:/"])
    installation.publish()
    assert worker.wait(WITHIN_S) == 128 + 6, installation.log
    with reading(installation.engine) as connection:
        assert list(connection.scalars(select(workers.c.crashed_by))) == [None]
    assert "Its device was the cause, and no image: CUDA error: device-side" in installation.log
