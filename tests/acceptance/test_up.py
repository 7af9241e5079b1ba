"""`resnextq up` starts everything in one command, and leaves no process behind."""

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
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from resnext.spec.catalogue import BUNDLED, find_spec
from tests.pictures.demo import GOOD

WITHIN_S = 400


@pytest.fixture
def machine(bare_installation) -> Iterator[Any]:
    """A bare installation. No process may be left at the end of a test."""
    yield bare_installation
    bare_installation.stop()
    until(lambda: not alive(bare_installation), lambda: f"left: {alive(bare_installation)}")


def until(condition: Callable[[], object], doubt: Callable[[], str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, doubt()
        time.sleep(0.1)


def up(machine) -> subprocess.Popen[bytes]:
    """Start `up`, and return once its worker is ready."""
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
    """This home's processes by id. Each has the home in its environment or its arguments.

    Only root can read a worker's environment. Other users find a worker by its parent.
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
        except OSError:  # it has ended, or we may not read it
            continue
    found |= {
        pid: words
        for pid, (parent, words) in hidden.items()
        if parent in found and "resnextq worker" in words
    }
    return {pid: words for pid, words in found.items() if words}  # not zombies


def ask(machine, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """Call the API with `up`'s key: POST if there is a body, otherwise GET."""
    key = (home(machine) / "api-key").read_text().strip()
    url = (home(machine) / "api-url").read_text().strip()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    request = urllib.request.Request(url + path, body, headers)
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
    """Jobs of 1, 130, 70 and 200 images."""
    up(machine)
    expected = {}
    for letter, number in zip("abcd", (1, 130, 70, 200), strict=True):
        images = [
            (f"{web}/{'red-panda' if n % 9 else 'nothing'}.png?{letter}{n}", f"{letter}-{n}")
            for n in range(number)
        ]
        lines = (f"{uri}\t{id_}" if named else uri for uri, id_ in images)
        job = machine.run("submit", "-", stdin="\n".join(lines)).strip()
        expected[job] = [
            (uri, id_ if named else None, "classified" if "panda" in uri else "failed")
            for uri, id_ in images
        ]
    for job, images in expected.items():
        machine.wait(job)
        rows = machine.results(job)
        assert [(row["uri"], row.get("ref"), row["status"]) for row in rows] == images


def test_up_classifies_uploaded_pictures(machine) -> None:
    up(machine)
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="cat.jpg"\r\n\r\n%b\r\n--x--'
    form = "multipart/form-data; boundary=x"
    kept = ask(machine, "/v1/images", part % GOOD.read_bytes(), form)
    assert kept["images"][0]["uri"].startswith((home(machine) / "uploads").as_uri())
    job = ask(machine, "/v1/jobs", json.dumps(kept).encode())["id"]
    assert machine.wait(job)["classified"] == 1
    assert machine.results(job)[0]["ref"] == "cat.jpg"


def three_free_ports() -> int:
    """The first of three free ports in a row."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        with ExitStack() as stack, suppress(OSError, OverflowError):
            for number in range(port, port + 3):
                stack.enter_context(socket.create_server(("127.0.0.1", number)))
            return port


def test_each_process_of_up_has_its_own_metrics_port(machine) -> None:
    port = three_free_ports()
    machine.environment["RESNEXT_METRICS_PORT"] = str(port)
    up(machine)
    shown = [fetch(f"http://127.0.0.1:{port + n}/metrics") for n in range(3)]
    assert [status for status, _ in shown] == [200, 200, 200]
    for (_, text), name in zip(
        shown,
        ("resnext_worker_info", "resnext_dispatcher_leading", "resnext_api_requests_total"),
        strict=True,
    ):
        assert f"# TYPE {name} " in text


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
        *("api-key", "broker-url", "flower-login", "login-link"),
        *("valkey/valkey.conf", "valkey/valkey.password"),
    ):
        assert (home(machine) / secret).stat().st_mode & 0o077 == 0
    assert home(machine).stat().st_mode & 0o077 == 0

    heard = [line for line in said(machine).splitlines() if line.startswith("worker: ")]
    assert heard
    assert not any(" INFO " in line for line in heard), "a log line appears as a message"

    dashboard = (home(machine) / "flower-url").read_text().strip()
    api = (home(machine) / "api-url").read_text().strip()
    for what, where in {
        "home": home(machine),
        "database": f"sqlite:///{home(machine) / 'resnext.db'}",
        "broker": home(machine) / "valkey" / "valkey.sock",
        "pages": api,
        "api": f"{api}  (key in {home(machine) / 'api-key'})",
        "dashboard": dashboard,
        "files": f"under {machine.folder}, ",
        "logs": home(machine) / "logs",
    }.items():
        assert f"  {what:<10}{where}" in said(machine)
    (query,) = re.findall(
        rf'^  sqlite3 {home(machine)}/resnext.db "(.+)"$', said(machine), re.MULTILINE
    )
    with closing(sqlite3.connect(home(machine) / "resnext.db")) as connection:
        assert len(connection.execute(query).fetchall()) == 12
    assert fetch(f"{api}/v1/jobs")[0] == 401
    link = (home(machine) / "login-link").read_text().strip()
    assert link.startswith(f"{api}/login?link=")
    assert "This link logs you in once." in fetch(link)[1]
    assert link not in said(machine), "others could read the link in the log"
    assert ask(machine, f"/v1/jobs/{job}")["classified"] == 12
    assert fetch(dashboard)[0] == 401
    assert fetch(f"{dashboard}/metrics")[0] == 401
    assert fetch(f"{dashboard}/api/tasks")[0] == 401
    assert fetch(f"{dashboard}/metrics", login)[0] == 200
    tasks = json.loads(fetch(f"{dashboard}/api/tasks", login)[1])

    def are_done() -> bool:  # the dashboard gets updates once a second
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


def test_a_stopped_up_continues_its_job_at_the_next_start(machine, many, gate) -> None:
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


def test_a_killed_up_leaves_no_process_and_loses_nothing(machine, many, gate) -> None:
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


def test_up_restarts_a_worker_and_a_broker_that_die(machine, many, gate) -> None:
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


def test_up_uses_loopback_if_the_home_is_too_long_for_a_socket(machine, many) -> None:
    machine.environment["RESNEXT_HOME"] = str(machine.folder / ("h" * 100))
    up(machine)
    assert (home(machine) / "broker-url").read_text().startswith("redis://:")
    job = machine.submit(*many[:2])
    assert machine.wait(job)["classified"] == 2


def test_up_stops_with_the_reason_if_its_worker_cannot_start(machine) -> None:
    machine.environment["RESNEXT_WEIGHTS"] = "/not/there.pth"
    done = machine.call("up")
    assert done.returncode == 3
    assert "/not/there.pth" in done.stderr
    assert "Traceback" not in done.stderr
    assert alive(machine) == {}


@pytest.fixture
def offline(machine) -> Any:
    """A machine without settings that cannot reach the servers with weights."""
    for name in ("RESNEXT_MODEL", "RESNEXT_WEIGHTS"):
        del machine.environment[name]
    machine.environment |= {"https_proxy": "http://127.0.0.1:9", "XDG_CACHE_HOME": ""}
    return machine


def test_without_a_network_up_serves_the_bundled_model_and_submit_asks_for_it(
    offline, many
) -> None:
    up(offline)
    (note,) = [line for line in said(offline).splitlines() if "cannot be downloaded" in line]
    assert note.endswith(
        f"so this serves the small model that comes with the program, {BUNDLED}. "
        "To stop with an error instead, set RESNEXT_MODEL=resnext101_32x4d."
    )
    assert offline.wait(offline.submit(*many[:2]))["classified"] == 2
    kept = ask(offline, "/v1/jobs", json.dumps({"uris": many[2:3]}).encode())
    assert kept["model"] == BUNDLED
    insisting = offline.run("submit", many[0], "--model", "resnext101_32x4d").strip()
    assert offline.status(insisting)["queue"] == "resnext101_32x4d.nvidia.amp"


def test_up_does_not_replace_a_configured_model_but_names_the_bundled_one(offline) -> None:
    offline.environment["RESNEXT_MODEL"] = "resnext101_32x4d"
    done = offline.call("up")
    assert done.returncode == 3
    assert f"set RESNEXT_MODEL={BUNDLED} and RESNEXT_WEIGHTS=bundled" in done.stderr
    assert "bundled" in find_spec(BUNDLED).weights


@pytest.mark.parametrize(
    ("setting", "value", "status", "words"),
    [
        ("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:9/no", 3, "127.0.0.1:9/no"),
        ("DATABASE_URL", "sqlite:////nowhere/at/all.db", 3, "/nowhere/at/all.db"),
        ("BROKER_URL", "redis://:hunter2@127.0.0.1:9/0", 3, "127.0.0.1:9"),
        ("LOADERS", "many", 2, "RESNEXT_LOADERS is 'many'"),
    ],
)
def test_if_up_cannot_start_it_says_why_and_leaves_nothing_running(
    machine, setting, value, status, words
) -> None:
    machine.environment[f"RESNEXT_{setting}"] = value
    done = machine.call("up")
    assert done.returncode == status
    assert words in done.stderr
    assert "hunter2" not in done.stderr + machine.tails()
    assert "Traceback" not in done.stderr
    assert alive(machine) == {}


def test_up_leaves_a_newer_programs_database_unchanged(machine) -> None:
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
def test_a_taken_page_port_stops_nothing_else(machine, many, page, command, setting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        machine.environment[setting] = str(taken.getsockname()[1])
        up(machine)
        assert re.search(rf"^  {page} +not running", said(machine), re.MULTILINE), said(machine)
        assert f"resnextq {command} has ended with status 3: resnextq: The " in said(machine)
        job = machine.submit(*many[:2])
        assert machine.wait(job)["classified"] == 2
