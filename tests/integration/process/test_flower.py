"""The real Flower over HTTP, with a worker and a broker: what it shows, keeps and refuses."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flower.app import Flower
from flower.urls import handlers
from tornado.routing import URLSpec

from contract.settings import Settings
from tests.integration.dashboard import LOGIN, Dashboard, run_a_chunk
from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation
from tests.servers.relay import relaying
from worker.commands.flower import make_flower
from worker.dashboard.history import MOST_TASKS, History, forget_offline_workers
from worker.embedded.valkey import Valkey

TASK = "resnext.classify_chunk"
# One database is enough, because the dashboard does not use it.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def addresses(worker: str, task: str) -> Iterator[str]:
    """Every path for which Flower has a handler, filled with this worker and this task."""
    for handler in handlers:
        pattern = handler.regex.pattern if isinstance(handler, URLSpec) else handler[0]
        path = "/" + pattern.rstrip("$").removesuffix("/?").lstrip("/")
        for name in ("css/flower.css",) if "static" in path else (worker, task, "unknown"):
            quoted = urllib.parse.quote(name, safe="/@")
            yield re.sub(r"\(\.[+*]\)|\.\*", lambda _, quoted=quoted: quoted, path)


def socket_url(valkey: Valkey, _: ExitStack) -> str:
    return valkey.url


def tcp_url(valkey: Valkey, stack: ExitStack) -> str:
    port = stack.enter_context(relaying(valkey.socket_path, tls=False))
    return f"redis://:{password_of(valkey)}@127.0.0.1:{port}/0"


def tls_url(valkey: Valkey, stack: ExitStack) -> str:
    port = stack.enter_context(relaying(valkey.socket_path, tls=True))
    return f"rediss://:{password_of(valkey)}@localhost:{port}/0?ssl_cert_reqs=none"


def password_of(valkey: Valkey) -> str:
    return (valkey.folder / "valkey.password").read_text()


@pytest.fixture(params=[socket_url, tcp_url, tls_url])
def broker_url(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[str]:
    """The broker's URL, once for each kind of address."""
    make: Callable[[Valkey, ExitStack], str] = request.param
    with valkey.client() as client:
        client.flushall()
    with ExitStack() as stack:
        yield make(valkey, stack)


def on_socket_alone(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("broker_url", [socket_url], indirect=True)(test)


def test_no_page_or_reply_shows_the_brokers_password(
    installation: Installation, dashboard: Dashboard, node: str, valkey: Valkey
) -> None:
    task = run_a_chunk(installation, dashboard)
    shown = {path: dashboard.ask(path) for path in addresses(node, task)}
    for path in ("/broker", f"/worker/{node}", "/api/workers", "/api/queues/length", "/metrics"):
        assert shown[path][0] == 200, shown[path]
    for method in ("stats", "conf", "active_queues", "registered"):
        reply = getattr(installation.app.control.inspect(timeout=WITHIN_S, limit=1), method)()
        assert node in reply
        shown[f"remote control: {method}"] = (200, json.dumps(reply))
    shown["the worker's log"] = (200, installation.log)
    shown["the dashboard's log"] = (200, dashboard.log)
    for where, (_, text) in shown.items():
        assert password_of(valkey) not in text, where
        for user in re.findall(r"(?:rediss?|redis\+socket)://([^/@\s\"']*)@", text):
            assert user.strip(":*") == "", f"{where} shows {user}"
    queue = {"name": installation.queue, "messages": 0}
    assert dashboard.json("/api/queues/length") == {"active_queues": [queue]}
    assert installation.queue in shown["/broker"][1]


@on_socket_alone
def test_no_path_of_the_dashboard_answers_with_a_server_error(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    task = run_a_chunk(installation, dashboard)
    odd = ["/tasks/datatable?draw=x", "/api/tasks?limit=x", "/api/tasks?state=NO", "/%00%ff"]
    for path in {*addresses(node, task), *odd}:
        for method in ("GET", "POST"):
            status, text = dashboard.ask(path, method)
            assert status < 500, f"{method} {path}: {status} {text}"
            assert "Traceback" not in text, f"{method} {path}"
    assert "Traceback" not in dashboard.log


CHANGING = [
    "worker/shutdown/{node}",
    "worker/pool/restart/{node}",
    "worker/pool/grow/{node}?n=1",
    "worker/pool/shrink/{node}?n=1",
    "worker/pool/autoscale/{node}?min=1&max=2",
    "worker/queue/add-consumer/{node}?queue=other",
    "worker/queue/cancel-consumer/{node}?queue={queue}",
    "task/apply/{task}",
    "task/async-apply/{task}",
    "task/send-task/{task}",
    "task/timeout/{task}?workername={node}&hard=1",
    "task/rate-limit/{task}?workername={node}&ratelimit=1",
    "task/revoke/unknown?terminate=true",
    "task/abort/unknown",
]


@on_socket_alone
def test_commands_that_change_a_worker_are_hidden_and_refused(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    for path in CHANGING:
        filled = path.format(node=node, task=TASK, queue=installation.queue)
        status, text = dashboard.ask(f"/api/{filled}", "POST")
        assert status == 403, path
        assert "To end a job: resnextq cancel" in text, path
    assert "resnextq results" in dashboard.ask("/api/task/result/unknown")[1]
    page = dashboard.ask(f"/worker/{node}")[1]
    assert re.findall(r'<button[^>]* id="(worker-[^"]*)"', page) == []
    run_a_chunk(installation, dashboard)  # the worker still works


@on_socket_alone
def test_a_chunk_with_failed_images_is_a_failure_with_their_number(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    task = run_a_chunk(installation, dashboard)
    shown = dashboard.json(f"/api/task/info/{task}")
    assert shown["state"] == "FAILURE"
    assert shown["exception"] == "2 of 3 images failed: decode_error 1, http_404 1"
    assert "'failed': {" in shown["result"]
    assert shown["runtime"] > 0
    assert list(dashboard.json("/api/tasks?state=FAILURE")) == [task]
    until(
        lambda: (
            [
                worker.get("task-failed")
                for worker in dashboard.json("/workers?json=1")["data"]
                if worker["hostname"] == node
            ]
            == [1]
        )
    )


@on_socket_alone
def test_a_restarted_dashboard_keeps_its_history(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    task = run_a_chunk(installation, dashboard)
    dashboard.stop()
    dashboard.start()
    assert dashboard.json(f"/api/task/info/{task}")["state"] == "FAILURE"
    assert node in dashboard.ask("/workers")[1]
    private = [path for path in dashboard_files(dashboard) if path.stat().st_mode & 0o077]
    assert private == []


def dashboard_files(dashboard: Dashboard) -> list[Path]:
    found = list(dashboard.home.glob("flower-*"))
    assert len(found) > 1
    return found


@on_socket_alone
def test_an_unreadable_history_is_replaced(dashboard: Dashboard, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "flower-history").write_bytes(b"nothing that a dbm has written")
    (home / "flower-history.db").write_bytes(b"nothing that a dbm has written")
    dashboard.start()
    assert dashboard.json("/api/tasks") == {}
    dashboard.stop()
    dashboard.start()
    assert dashboard.log.count("Failed to load state") == 1


@on_socket_alone
def test_a_worker_has_a_name_with_host_and_device_and_shows_its_sql_name(
    installation: Installation, dashboard: Dashboard, node: str
) -> None:
    assert re.fullmatch(rf"resnextq@{re.escape(socket.gethostname())}-cpu(-\d+)?", node)
    stats = dashboard.json("/api/workers")[node]["stats"]
    assert [stats["worker"]] == installation.workers()


def in_flower(settings: Settings, test: Callable[[Flower], None]) -> None:
    """Run the test with a Flower in this process that gets only the test's events."""

    async def run() -> None:
        from contract.broker.connection import make_celery

        app = make_celery(settings)
        settings.home.mkdir(exist_ok=True)
        test(make_flower(app, settings, LOGIN))
        app.close()

    asyncio.run(run())


def tell(flower: Flower, kind: str, worker: str, at: float, **fields: Any) -> None:
    event = {"type": kind, "hostname": worker, "timestamp": at, "local_received": at}
    flower.events.state.event(event | {"clock": 1, "pid": 1, "freq": 2} | fields)


@on_socket_alone
def test_the_dashboard_keeps_a_limited_number_of_tasks(settings: Settings) -> None:
    def overflow(flower: Flower) -> None:
        for number in range(MOST_TASKS + 100):
            tell(flower, "task-received", "one", time.time(), uuid=f"task {number}", name=TASK)
        tasks = flower.events.state.tasks
        assert (len(tasks), "task 99" in tasks, "task 100" in tasks) == (MOST_TASKS, False, True)

    in_flower(settings, overflow)


@on_socket_alone
def test_workers_that_are_offline_for_long_are_forgotten(settings: Settings) -> None:
    def forget(flower: Flower) -> None:
        now = time.time()
        tell(flower, "worker-heartbeat", "here", now, active=0)
        for name, at in (("gone", now - 700), ("away", now - 500)):
            tell(flower, "worker-heartbeat", name, at, active=0)
            tell(flower, "worker-offline", name, at)
            flower.inspector.workers[name] = {"stats": {}}
        flower.inspector.workers["here"] = {"stats": {}}
        flower.inspector.workers["never seen"] = {"stats": {}}
        forget_offline_workers(flower, after_s=600)
        state = flower.events.state
        for known in (state.workers, state.counter, flower.inspector.workers):
            assert set(known) == {"here", "away"}

    in_flower(settings, forget)


@on_socket_alone
def test_a_history_that_cannot_be_saved_does_no_harm(settings: Settings, caplog) -> None:
    def save(flower: Flower) -> None:
        history: History = flower.events
        history.db = "/not/there"
        history.save_state()

    in_flower(settings, save)
    assert "could not be saved in /not/there" in caplog.text
