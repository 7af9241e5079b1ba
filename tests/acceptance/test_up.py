"""`resnextq up`: everything in one command, and nothing of it left when it is gone."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

WITHIN_S = 400


@pytest.fixture
def machine(bare_installation) -> Iterator[Any]:
    """Whatever a test does, in the end nothing is left running."""
    yield bare_installation
    bare_installation.stop()
    until(lambda: not alive(bare_installation), lambda: f"left: {alive(bare_installation)}")


def until(condition: Callable[[], object], doubt: Callable[[], str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, doubt()
        time.sleep(0.1)


def up(machine) -> subprocess.Popen[bytes]:
    """Started, its worker ready."""
    before = len(said(machine))
    process = machine.start("up")
    until(
        lambda: "\nReady: " in said(machine)[before:] or process.poll() is not None, machine.tails
    )
    assert process.poll() is None, machine.tails()
    return process


def said(machine) -> str:
    log = machine.log("up")
    return log.read_text() if log.exists() else ""


def home(machine) -> Path:
    return Path(machine.environment["RESNEXT_HOME"])


def alive(machine) -> dict[int, str]:
    """Processes of this home, by id: each has it in its environment or its arguments.

    A worker's environment is readable by root alone; for others it is known by its parent.
    """
    found, hidden = {}, {}
    mark = str(home(machine)).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            shown = words.replace(b"\0", b" ").decode(errors="replace")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            hidden[int(process.name)] = (parent, shown)
            if process.name != str(os.getpid()) and (
                mark in words or mark in (process / "environ").read_bytes()
            ):
                found[int(process.name)] = shown
        except OSError:  # it has ended meanwhile, or is hidden from us
            continue
    found |= {
        pid: words
        for pid, (parent, words) in hidden.items()
        if parent in found and "resnextq worker" in words
    }
    return {pid: words for pid, words in found.items() if words}  # not zombies


def ask(machine, path: str) -> Any:
    """The API, with the key that `up` keeps."""
    key = (home(machine) / "api-key").read_text().strip()
    url = (home(machine) / "api-url").read_text().strip()
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        return json.load(answer)


def fetch(url: str, login: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url)
    if login is not None:
        coded = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {coded}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


@pytest.mark.parametrize("named", [True, False], ids=["with ids", "without"])
def test_every_image_of_several_jobs_has_its_own_id_uri_and_answer(machine, web, named) -> None:
    """A list of one image, then of 130, 70 and 200."""
    up(machine)
    expected = {}
    for letter, number in zip("abcd", (1, 130, 70, 200), strict=True):
        images = [
            (f"{web}/{'horse' if n % 9 else 'nothing'}.png?{letter}{n}", f"{letter}-{n}")
            for n in range(number)
        ]
        lines = (f"{uri}\t{id_}" if named else uri for uri, id_ in images)
        job = machine.run("submit", "-", stdin="\n".join(lines)).strip()
        expected[job] = [
            (uri, id_ if named else None, "classified" if "horse" in uri else "failed")
            for uri, id_ in images
        ]
    for job, images in expected.items():
        machine.wait(job)
        rows = machine.results(job)
        assert [(row["uri"], row.get("ref"), row["status"]) for row in rows] == images


def test_up_runs_a_job_and_keeps_its_secrets(machine, many) -> None:
    running = up(machine)
    job = machine.submit(*many[:12])
    assert machine.wait(job)["classified"] == 12

    password = (home(machine) / "valkey" / "valkey.password").read_text()
    login = (home(machine) / "flower-login").read_text().strip()
    for words in alive(machine).values():
        assert password not in words
        assert login.partition(":")[2] not in words
    logs = machine.tails()
    assert password not in logs
    assert login.partition(":")[2] not in logs
    for secret in (
        *("api-key", "broker-url", "flower-login"),
        *("valkey/valkey.conf", "valkey/valkey.password"),
    ):
        assert (home(machine) / secret).stat().st_mode & 0o077 == 0
    assert home(machine).stat().st_mode & 0o077 == 0

    heard = [line for line in said(machine).splitlines() if line.startswith("  worker  ")]
    assert heard
    assert not any(" INFO " in line for line in heard), "a line of the log, and no message"

    dashboard = (home(machine) / "flower-url").read_text().strip()
    api = (home(machine) / "api-url").read_text().strip()
    for what, where in {
        "home": home(machine),
        "database": f"sqlite:///{home(machine) / 'resnext.db'}",
        "broker": home(machine) / "valkey" / "valkey.sock",
        "api": f"{api}  (key in {home(machine) / 'api-key'})",
        "dashboard": dashboard,
        "logs": home(machine) / "logs",
    }.items():
        assert f"  {what:<10}{where}" in said(machine)
    assert fetch(f"{api}/v1/jobs")[0] == 401
    assert ask(machine, f"/v1/jobs/{job}")["classified"] == 12
    assert fetch(dashboard)[0] == 401
    assert fetch(f"{dashboard}/metrics")[0] == 401
    assert fetch(f"{dashboard}/api/tasks")[0] == 401
    assert fetch(f"{dashboard}/metrics", login)[0] == 200
    tasks = json.loads(fetch(f"{dashboard}/api/tasks", login)[1])

    def are_done() -> bool:  # which it is told once a second
        tasks.update(json.loads(fetch(f"{dashboard}/api/tasks", login)[1]))
        return len(tasks) == 2 and all(task["result"] for task in tasks.values())

    until(are_done, lambda: f"the dashboard knows of {tasks}")
    for task in tasks.values():
        assert task["name"] == "resnext.classify_chunk"
        assert f"job={job} chunk=" in task["kwargs"]
        assert "'classified': " in task["result"]
        assert "'failed': {}" in task["result"]
        assert "'images_per_s': " in task["result"]

    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=300) == 0
    assert alive(machine) == {}


def test_a_second_up_is_refused_with_the_pid_of_the_first(machine) -> None:
    first = up(machine)
    second = machine.call("up")
    assert second.returncode == 2
    assert f"process {first.pid}" in second.stderr
    assert "RESNEXT_HOME" in second.stderr


def test_up_that_is_stopped_in_mid_job_goes_on_at_the_next_start(machine, many, gate) -> None:
    first = up(machine)
    job = machine.submit(*many)
    machine.wait(job, lambda status: status["classified"] > 0)
    first.terminate()
    assert first.wait(timeout=300) == 0
    assert alive(machine) == {}
    gate.set()

    up(machine)

    assert machine.wait(job)["classified"] == len(many)
    assert [result["uri"] for result in machine.results(job)] == many


def test_up_that_is_killed_leaves_no_process_and_loses_nothing(machine, many, gate) -> None:
    first = up(machine)
    job = machine.submit(*many)
    machine.wait(job, lambda status: status["classified"] > 0)
    first.kill()
    first.wait()
    until(lambda: not alive(machine), lambda: f"left running: {alive(machine)}")
    gate.set()

    up(machine)

    assert machine.wait(job)["classified"] == len(many)
    assert [result["uri"] for result in machine.results(job)] == many


def test_a_worker_and_a_broker_that_die_are_started_again(machine, many, gate) -> None:
    up(machine)
    job = machine.submit(*many)
    machine.wait(job, lambda status: status["classified"] > 0)
    for pid, words in alive(machine).items():
        if "resnextq worker" in words or "valkey-server" in words:
            os.kill(pid, signal.SIGKILL)
    gate.set()

    assert machine.wait(job)["classified"] == len(many)
    assert "resnextq worker has ended with status -9" in said(machine)
    assert "Valkey has ended" in said(machine)


def test_a_home_whose_path_is_too_long_for_a_socket_uses_loopback(machine, many) -> None:
    machine.environment["RESNEXT_HOME"] = str(machine.folder / ("h" * 100))
    up(machine)
    assert (home(machine) / "broker-url").read_text().startswith("redis://:")
    job = machine.submit(*many[:2])
    assert machine.wait(job)["classified"] == 2


def test_a_worker_that_cannot_begin_stops_up_with_its_reason(machine) -> None:
    machine.environment["RESNEXT_WEIGHTS"] = "/not/there.pth"
    done = machine.call("up")
    assert done.returncode == 3
    assert "/not/there.pth" in done.stderr
    assert "Traceback" not in done.stderr
    assert alive(machine) == {}


@pytest.mark.parametrize(
    ("setting", "value", "status", "words"),
    [
        ("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:9/no", 3, "127.0.0.1:9/no"),
        ("DATABASE_URL", "sqlite:////nowhere/at/all.db", 3, "/nowhere/at/all.db"),
        ("BROKER_URL", "redis://:hunter2@127.0.0.1:9/0", 3, "127.0.0.1:9"),
        ("LOADERS", "many", 2, "RESNEXT_LOADERS is 'many'"),
    ],
)
def test_up_that_cannot_begin_says_why_and_leaves_nothing_running(
    machine, setting, value, status, words
) -> None:
    machine.environment[f"RESNEXT_{setting}"] = value
    done = machine.call("up")
    assert done.returncode == status
    assert words in done.stderr
    assert "hunter2" not in done.stderr + machine.tails()
    assert "Traceback" not in done.stderr
    assert alive(machine) == {}


def test_a_database_of_a_newer_program_is_left_as_it_is(machine) -> None:
    machine.run("db", "upgrade")
    path = home(machine) / "resnext.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
        connection.commit()
        before = list(connection.iterdump())
        done = machine.call("up")
        assert (done.returncode, "0999, too new" in done.stderr) == (3, True), done.stderr
        assert list(connection.iterdump()) == before
    assert alive(machine) == {}


@pytest.mark.parametrize(
    ("page", "command", "setting"),
    [("dashboard", "flower", "RESNEXT_FLOWER_PORT"), ("api", "serve", "RESNEXT_API_PORT")],
)
def test_a_page_whose_port_is_taken_stops_nothing_else(
    machine, many, page, command, setting
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        machine.environment[setting] = str(taken.getsockname()[1])
        up(machine)
        assert re.search(rf"^  {page} +not running", said(machine), re.MULTILINE), said(machine)
        assert f"resnextq {command} has ended with status 3: resnextq: The " in said(machine)
        job = machine.submit(*many[:2])
        assert machine.wait(job)["classified"] == 2
