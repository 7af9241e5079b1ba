"""Real processes log JSON, and a job's lines carry its id, even around a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.log_file import FILE
from producer.submit.submission import submit
from tests.doubles.worker import WEB
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation
from tests.servers.terminal import HOSTILE

RESNEXTQ = Path(sys.executable).with_name("resnextq")
FORGED = '{"time": "2026-01-01T00:00:00.000Z", "level": "ERROR", "message": "all is lost"}'
# One database is enough, because logs do not depend on it.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Parse the log. Every line must be an object with the known fields."""
    text = path.read_text()
    assert text.replace("\n", "").isprintable()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert set(line) <= {
            *("time", "level", "logger", "message", "traceback"),
            *("job", "chunk", "generation", "attempt", "worker"),
        }
    return lines


def begin(
    installation: Installation, *arguments: str, **variables: str
) -> tuple[subprocess.Popen[bytes], Path]:
    path = installation.folder / f"json-{len(installation.processes)}.log"
    process = installation.begin(path, *arguments, LOG_FORMAT="json", **variables)
    until(lambda: '"ready: ' in path.read_text() or process.poll() is not None, path.read_text)
    assert process.poll() is None, path.read_text()
    return process, path


def test_a_chunks_lines_carry_its_job_chunk_and_attempt(installation: Installation) -> None:
    process, path = begin(installation, "watched")
    (worker,) = installation.workers()
    installation.submit(["double:ok", "double:hang"], ["double:ok", "double:fail:http_404"])
    installation.publish()
    until(lambda: installation.tallied() == 3, path.read_text)
    process.terminate()
    assert process.wait(WITHIN_S) == 0
    lines = lines_of(path)
    assert {line["worker"] for line in lines} == {worker}
    of_chunks = [line for line in lines if line["logger"] == "worker.chunk.task"]
    assert sorted((line["chunk"], line["generation"], line["attempt"]) for line in of_chunks) == [
        (0, 1, 1),
        (1, 1, 1),
    ]
    assert {line["job"] for line in of_chunks} == {"job"}
    assert all("job" in line for line in lines if "job=" in line["message"])


@pytest.mark.parametrize("fault", ["faulty-claim", "faulty-store"])
def test_a_fault_is_one_line_with_traceback_and_job(installation: Installation, fault: str) -> None:
    _, path = begin(installation, "watched", fault, MAX_ATTEMPTS="1")
    installation.submit(["double:ok", "double:ok:planted"])
    installation.publish()
    until(lambda: "ZeroDivisionError" in path.read_text(), path.read_text)
    until(lambda: installation.states()[0] != "running", path.read_text)
    faults = [line for line in lines_of(path) if "ZeroDivisionError" in line.get("traceback", "")]
    assert {(line["job"], line["chunk"], line["generation"]) for line in faults} == {("job", 0, 1)}


def test_hostile_text_stays_within_one_line(installation: Installation) -> None:
    _, path = begin(installation, "watched")
    hostile = f"no\n{FORGED}\r\n{HOSTILE}"
    installation.send({"version": hostile}, hostile)
    installation.send({"version": 4, "job": hostile}, hostile)
    until(lambda: path.read_text().count("Dropped a message") == 2, path.read_text)
    assert not any(line["message"] == "all is lost" for line in lines_of(path))


def test_what_a_library_prints_before_a_crash_becomes_log_lines(
    installation: Installation,
) -> None:
    """Python's fault handler writes like a C library: directly to standard error, not as JSON."""
    installation.environment |= {"PYTHONFAULTHANDLER": "1"}
    process, path = begin(installation, "watched")
    (worker,) = installation.workers()
    installation.submit([f"double:crash:{signal.SIGSEGV.name}"])
    installation.publish()
    assert process.wait(WITHIN_S) == 128 + signal.SIGSEGV
    messages = [line["message"] for line in lines_of(path)]
    assert "Fatal Python error: Segmentation fault" in messages
    assert "The worker was ended by SIGSEGV." in messages[-1]
    assert {line["worker"] for line in lines_of(path)} == {worker}


def test_a_workers_log_file_is_rotated_by_its_supervisor(
    installation: Installation,
) -> None:
    path = installation.folder / "json-0.log"
    installation.environment |= {FILE: str(path)}
    process, _ = begin(installation, "watched", LOG_FILE_BYTES="4096", LOG_FILES="100")
    installation.submit(*[["double:ok"]] * 30)
    installation.publish()
    installation.await_states(*["done"] * 30)
    process.terminate()
    assert process.wait(WITHIN_S) == 0
    files = sorted(installation.folder.glob("json-0.log*"))
    assert len(files) > 2
    done = [
        line["chunk"]
        for file in files
        for line in lines_of(file)
        if line["logger"] == "worker.chunk.task"
    ]
    assert sorted(done) == list(range(30))


def run(environment: Mapping[str, str], command: str, log: Path) -> list[dict[str, Any]]:
    with log.open("wb") as output:
        done = subprocess.run(
            [RESNEXTQ, command],
            env=dict(environment),
            stdout=output,
            stderr=output,
            timeout=WITHIN_S,
            check=False,
        )
    assert done.returncode in {2, 3}
    return lines_of(log)


@pytest.mark.parametrize("command", ["up", "worker", "dispatch", "serve", "flower"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"RESNEXT_LOADERS": f"no\n{FORGED}{HOSTILE}"},
        {
            "RESNEXT_DATABASE_URL": "sqlite:////not/there.db",
            "RESNEXT_BROKER_URL": "redis://[::1]:9",
        },
    ],
    ids=["a setting", "a server"],
)
def test_a_program_that_cannot_start_says_so_in_json(
    installation: Installation, tmp_path: Path, command: str, wrong: dict[str, str]
) -> None:
    environment = {
        **installation.environment,
        "RESNEXT_LOG_FORMAT": "json",
        "RESNEXT_HOME": str(tmp_path / "home"),
        "RESNEXT_FLOWER_LOGIN": "me:chosen",
    }
    last = run(environment | wrong, command, tmp_path / "log")[-1]
    assert last["level"] == "ERROR"
    assert any(words in last["message"] for words in ("RESNEXT_LOADERS", "not/there", "[::1]:9"))


def test_the_dispatchers_line_about_a_completed_job_carries_its_id(
    installation: Installation,
) -> None:
    """The job has a hostile name."""
    settings = installation.settings.model_copy(update={"chunk_images": 1})
    job = submit(
        installation.engine,
        [(f"{WEB}ok/1", None)],
        settings=settings,
        name="no" + FORGED,
    )
    log = installation.folder / "dispatch.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [RESNEXTQ, "dispatch"],
            env=os.environ | installation.environment | {"RESNEXT_LOG_FORMAT": "json"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    installation.processes.append(process)
    begin(installation)
    until(lambda: "is completed" in log.read_text(), log.read_text)
    (line,) = [line for line in lines_of(log) if "is completed" in line["message"]]
    assert line["job"] == job
