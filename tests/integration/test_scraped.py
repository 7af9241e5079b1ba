"""The metrics of all processes of an installation while a job runs, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.settings import Settings
from producer.api.metrics import METRICS as API_METRICS
from producer.dispatcher.metrics import METRICS as DISPATCHER_METRICS
from tests.integration.dispatcher import Dispatch, leading
from tests.integration.dispatching import until
from tests.integration.installation import Installation
from tests.metrics import PROMTOOL, names, needs_promtool, samples, shown_by
from tests.servers.api import running
from worker.metrics.stages import METRICS as WORKER_METRICS

OF_A_PROCESS = {
    "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
    "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
}  # fmt: skip

FAILED = "resnext_images_total http_404 failed"


@pytest.fixture
def dispatcher(settings: Settings, tmp_path: Path) -> Iterator[Dispatch]:
    with leading(settings, tmp_path / "dispatch.log", METRICS_PORT="0") as started:
        yield started


@pytest.fixture
def api_log(settings: Settings, tmp_path: Path) -> Iterator[Path]:
    """The log of a `resnextq serve` that is ready."""
    log = tmp_path / "serve.log"
    with running(settings, log, RESNEXT_METRICS_PORT="0"):
        yield log


def test_every_process_shows_a_job_in_its_metrics(
    installation: Installation, dispatcher: Dispatch, api_log: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit(
        ["double:ok"] * 3 + ["double:fail:http_404"] * 2,
        ["double:ok", f"double:after:{gate}"],
    )
    began = time.time()
    installation.start(METRICS_PORT="0")

    def of_dispatcher() -> dict[str, float]:
        return samples(shown_by(dispatcher.said))

    queue = installation.queue
    until(lambda: of_dispatcher().get(f"resnext_pending_images {queue}") == 1)
    found = of_dispatcher()
    assert found[f"resnext_workers {queue}"] == 1
    assert found[f"resnext_chunks {queue} running"] == 1
    assert found[f"resnext_chunks {queue} pending"] == 0
    assert found["resnext_jobs running"] == 1
    assert found["resnext_published_chunks_total"] == 2
    assert began <= found[f"resnext_last_stored_timestamp_seconds {queue}"] <= time.time()
    # The worker counts an image shortly after it has stored it.
    until(lambda: samples(shown_by(installation.log)).get(FAILED) == 2)
    assert samples(shown_by(installation.log))["resnext_images_in_flight loading"] == 1

    gate.touch()
    installation.await_states("done", "done")
    until(lambda: of_dispatcher()["resnext_jobs completed"] == 1)
    # A queue is shown while it has work or workers.
    assert of_dispatcher()[f"resnext_workers {queue}"] == 1
    assert of_dispatcher()[f"resnext_pending_images {queue}"] == 0
    assert names(shown_by(dispatcher.said)) == set(DISPATCHER_METRICS) | OF_A_PROCESS
    assert names(shown_by(installation.log)) == set(WORKER_METRICS) | OF_A_PROCESS
    shown_by_api = names(shown_by(api_log.read_text()))
    created = {name for name in shown_by_api if name.endswith("_created")}
    assert shown_by_api - created == set(API_METRICS) | OF_A_PROCESS


@needs_promtool
def test_promtool_has_no_complaint_about_the_metrics(
    installation: Installation, dispatcher: Dispatch, api_log: Path
) -> None:
    installation.submit(["double:ok", "double:fail:http_404"])
    installation.start(METRICS_PORT="0")
    installation.await_states("done")
    until(lambda: "resnext_workers{" in shown_by(dispatcher.said))
    for log in (dispatcher.said, installation.log, api_log.read_text()):
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"],
            input=shown_by(log),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_taken_metrics_port_stops_the_api(
    settings: Settings, api_log: Path, tmp_path: Path
) -> None:
    port = api_log.read_text().partition("metrics on 127.0.0.1, port ")[2].split()[0]
    environment = {
        "RESNEXT_DATABASE_URL": settings.database(),
        "RESNEXT_BROKER_URL": settings.broker(),
        "RESNEXT_API_PORT": "0",
        "RESNEXT_METRICS_PORT": port,
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("resnextq"), "serve"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert f"The metrics cannot be served on 127.0.0.1:{port}: " in done.stderr
    assert "Traceback" not in done.stderr
