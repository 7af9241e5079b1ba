"""`resnextq doctor` reports faults of the API, disks, limits and the fleet."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from contract import VERSION
from contract.check import Check
from contract.database.engine import reading
from contract.settings import Settings
from producer.api.keys import revoke_key
from producer.api.server import keep_key, write_url
from producer.checks import fleet, room
from producer.checks.fleet import check_clock, check_fleet
from producer.checks.listening import check_api, check_open
from producer.checks.room import check_database_space, check_space
from producer.jobs.change import pause
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    add_worker,
    change_job,
    change_worker,
    job_of,
    submit_chunks,
)
from tests.servers.api import Api, serve

RESNEXTQ = Path(sys.executable).with_name("resnextq")


@pytest.fixture
def api(engine: Engine, settings: Settings) -> Iterator[Api]:
    yield from serve(engine, settings)


@pytest.fixture
def kept(api: Api, engine: Engine, settings: Settings) -> Settings:
    """Settings whose home has the API's address and key, as while `up` runs."""
    write_url(settings, api.url)
    keep_key(engine, settings)
    return settings


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Run another program's server. Yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(WITHIN_S)


def test_the_api_of_up_accepts_the_key_in_the_home(kept: Settings) -> None:
    check = only(check_api(kept))
    assert (check.state, check.found.endswith(f"accepts the key in {kept.api_key_file}")) == (
        "ok",
        True,
    )


def test_a_revoked_key_is_a_failure(kept: Settings, engine: Engine) -> None:
    revoke_key(engine, "up")
    check = only(check_api(kept))
    assert check.state == "failure"
    assert "refuses the key" in check.found
    assert check.advice.startswith(f"Remove {kept.api_key_file}")


def test_an_api_of_up_that_has_stopped_is_a_failure(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    write_url(settings, f"http://127.0.0.1:{port}")
    check = only(check_api(settings))
    assert (check.state, f"127.0.0.1:{port} does not answer" in check.found) == ("failure", True)


def test_an_api_that_hangs_times_out(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check = only(check_api(changed(settings, api_port=silent.getsockname()[1])))
    assert (check.state, "does not answer" in check.found) == ("warning", True)


def test_another_program_on_the_port_is_a_warning(settings: Settings) -> None:
    with answering(404) as port:
        check = only(check_api(changed(settings, api_port=port)))
    assert (check.state, "status 404" in check.found) == ("warning", True)
    assert "RESNEXT_API_PORT" in check.advice


def test_a_missing_api_is_no_problem(settings: Settings) -> None:
    check = only(check_api(changed(settings, api_port=0)))
    assert (check.state, "nothing listens" in check.found) == ("ok", True)


@pytest.mark.parametrize(
    ("changes", "opened"),
    [
        ({}, []),
        ({"api_address": "0.0.0.0"}, ["RESNEXT_API_ADDRESS=0.0.0.0"]),
        ({"api_address": "::"}, ["RESNEXT_API_ADDRESS=::"]),
        ({"api_address": "localhost", "flower_address": "::1"}, []),
        ({"flower_address": "192.0.2.1"}, ["RESNEXT_FLOWER_ADDRESS=192.0.2.1"]),
        ({"metrics_address": "0.0.0.0"}, []),
        ({"metrics_address": "0.0.0.0", "metrics_port": 9}, ["RESNEXT_METRICS_ADDRESS=0.0.0.0"]),
    ],
)
def test_addresses_reachable_from_other_machines_are_warnings(
    settings: Settings, changes: dict[str, Any], opened: list[str]
) -> None:
    checks = list(check_open(changed(settings, **changes)))
    told = [check.found.split(": ")[0] for check in checks if check.advice]
    assert told == opened
    assert {check.state for check in checks} == ({"warning"} if opened else {"ok"})


def test_too_little_space_for_lists_is_a_warning(settings: Settings) -> None:
    largest = 2**60  # an exabyte
    checks = list(check_space(changed(settings, api_body_bytes=largest)))
    assert [check.state for check in checks] == ["ok", "ok", "warning"]
    assert "temporary files: " in checks[2].found
    assert "RESNEXT_API_BODY_BYTES" in checks[2].advice


def test_a_full_disk_is_a_failure(settings: Settings, monkeypatch) -> None:
    """The test fills no disk. It requires more space than any disk has."""
    monkeypatch.setattr(room, "LEAST_BYTES", 2**60)
    assert {check.state for check in check_space(settings)} == {"failure"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_too_little_space_for_pending_images_in_sqlite_is_a_warning(engine: Engine) -> None:
    job = submit_chunks(engine, 1)
    with reading(engine) as connection:
        assert only(check_database_space(engine, connection)).state == "ok"
    change_job(engine, job, total=10**15)
    with reading(engine) as connection:
        check = only(check_database_space(engine, connection))
    assert check.state == "warning"
    assert "for 1,000,000,000,000,000 waiting images" in check.found
    assert "resnextq purge" in check.advice


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_disk_of_a_database_server_is_not_checked(engine: Engine) -> None:
    with reading(engine) as connection:
        assert list(check_database_space(engine, connection)) == []


def test_a_descriptor_limit_is_reported(settings: Settings) -> None:
    done = subprocess.run(
        [RESNEXTQ, "doctor"],
        env=os.environ | {"RESNEXT_DATABASE_URL": settings.database()},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096)),
    )
    (line,) = [line for line in done.stdout.splitlines() if "\tdescriptors\t" in line]
    assert line.startswith(
        "warning\tdescriptors\ta process may have 200 files open; it should be 1,024"
    )
    assert "ulimit -n" in line


def test_unserved_jobs_are_one_warning_per_queue(engine: Engine, settings: Settings) -> None:
    served, first = submit_chunks(engine, 1), submit_chunks(engine, 1, precision="fp32")
    paused = submit_chunks(engine, 1, weights="random")
    submit_chunks(engine, 1, precision="fp32")
    pause(engine, job_of(engine, paused).id)
    add_worker(engine, "w1")
    change_worker(engine, "w1", version=VERSION)
    with reading(engine) as connection:
        found = [one for one in check_fleet(connection, settings) if one.name == "unserved jobs"]
    (check,) = found
    assert check.state == "warning"
    queue = QUEUE.replace("amp", "fp32")
    assert check.found.startswith(f"2 running jobs use {queue}, which no live worker serves")
    assert "RESNEXT_PRECISION=fp32 resnextq worker" in check.advice
    change_job(engine, served, state="cancelled")
    assert job_of(engine, first).state == "running"


def test_workers_with_another_version_are_a_warning(engine: Engine, settings: Settings) -> None:
    for name in ("w1", "w2", "old"):
        add_worker(engine, name)
        change_worker(engine, name, version="0.0.9" if name == "old" else VERSION)
    add_worker(engine, "dead", age_s=3_600)
    with reading(engine) as connection:
        (check,) = [one for one in check_fleet(connection, settings) if one.name == "versions"]
    assert check.state == "warning"
    assert check.found == f"live workers: 1 of 0.0.9, 2 of {VERSION}; this is {VERSION}"


@pytest.mark.parametrize(("shift_s", "words"), [(90, "90 s ahead of"), (-90, "90 s behind")])
def test_a_clock_that_differs_from_the_databases_is_a_warning(
    engine: Engine, monkeypatch, shift_s: int, words: str
) -> None:
    """The check gets a shifted time. The machine's clock stays as it is."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=shift_s)

    with reading(engine) as connection:
        assert check_clock(connection).state == "ok"
        monkeypatch.setattr(fleet, "datetime", Shifted)
        check = check_clock(connection)
    assert (check.state, words in check.found) == ("warning", True)


def test_without_the_device_option_torch_is_not_loaded(settings: Settings, tmp_path: Path) -> None:
    """Health checks can then run it, at a tenth of the time and memory."""
    code = """
import sys
sys.argv = ["resnextq", "doctor"]
from producer.cli.main import app
try:
    app(prog_name="resnextq")
except SystemExit as end:
    print("status", end.code)
print("torch", "torch" in sys.modules)
"""
    environment = os.environ | {
        "RESNEXT_DATABASE_URL": settings.database(),
        "RESNEXT_BROKER_URL": settings.broker(),
        "RESNEXT_CACHE": str(tmp_path),
        "RESNEXT_WEIGHTS": "random",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["status 0", "torch False"], done.stdout
    (device,) = [line for line in done.stdout.splitlines() if line.startswith("ok\tdevice\t")]
    assert "--device also checks precision, engine and layers" in device


def test_a_configured_gpu_that_is_missing_is_a_failure(settings: Settings) -> None:
    done = subprocess.run(
        [RESNEXTQ, "doctor"],
        env=os.environ | {"RESNEXT_DATABASE_URL": settings.database(), "RESNEXT_DEVICE": "cuda:9"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 3
    assert "failure\tdevice\tRESNEXT_DEVICE=cuda:9; " in done.stdout
