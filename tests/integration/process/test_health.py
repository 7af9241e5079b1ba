"""A container's health check reports on its own process only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import leaders, workers
from contract.settings import Settings
from producer import health as dispatchers
from producer.dispatcher.leader import DEAD_AFTER_S, Leadership
from tests.integration.dispatching import add_worker
from worker import health

HOST = "gpu"


@pytest.fixture(autouse=True)
def _on_a_machine(monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)


@pytest.fixture
def fault(engine: Engine, settings: Settings) -> Callable[..., str]:
    def ask(module: object = health, pid: int | None = None) -> str:
        with reading(engine) as connection:
            return module.fault_of(connection, settings, pid)  # type: ignore[attr-defined,no-any-return]

    return ask


def test_a_worker_with_a_heartbeat_is_healthy(engine: Engine, fault: Callable[..., str]) -> None:
    assert fault() == (
        "No worker is alive on gpu: each has crashed, or has sent no heartbeat for 30 s."
    )
    add_worker(engine, "gpu-7-0123abcd")
    assert fault() == ""
    assert fault(pid=7) == ""


@pytest.mark.parametrize("name", ["gpu-2-7-0123abcd", "gp-7-0123abcd", "GPU-7-0123abcd", "gpu-7"])
def test_workers_of_machines_with_similar_names_do_not_count(
    engine: Engine, fault: Callable[..., str], name: str
) -> None:
    add_worker(engine, name)
    assert "No worker is alive on gpu" in fault()


def test_the_process_id_selects_one_of_several_workers(
    engine: Engine, fault: Callable[..., str]
) -> None:
    add_worker(engine, "gpu-7-0123abcd")
    assert "No worker is alive on gpu with the process id 70" in fault(pid=70)
    assert fault(pid=7) == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"heartbeat_at": db_now(-31.0)}, "No worker is alive on gpu"),
        ({"crashed_by": "SIGSEGV"}, "No worker is alive on gpu"),
        ({"stopping": True}, "The worker gpu-7-0123abcd is stopping."),
    ],
)
def test_a_dead_crashed_or_stopping_worker_is_not_healthy(
    engine: Engine, fault: Callable[..., str], values: dict[str, object], words: str
) -> None:
    add_worker(engine, "gpu-7-0123abcd")
    with engine.begin() as connection:
        connection.execute(update(workers).values(values))
    assert words in fault()
    add_worker(engine, "gpu-8-0123abcd")  # its replacement
    assert fault() == ""


def test_a_leading_dispatcher_is_healthy(engine: Engine, fault: Callable[..., str]) -> None:
    assert fault(dispatchers) == "No dispatcher on gpu has led or stood by for 15 s."
    leader = Leadership()
    assert leader.ask(engine)
    assert fault(dispatchers) == ""


def test_a_leader_elsewhere_does_not_make_this_machine_healthy(
    engine: Engine, fault: Callable[..., str], monkeypatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-2")
    assert Leadership().ask(engine)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    assert "No dispatcher on gpu has led or stood by" in fault(dispatchers)
    standby = Leadership()
    assert not standby.ask(engine)
    assert fault(dispatchers) == ""
    assert fault(dispatchers, pid=os.getpid()) == ""
    with engine.begin() as connection:
        ago = db_now(-DEAD_AFTER_S)
        connection.execute(update(leaders).filter_by(holder=standby.name).values(held_at=ago))
    assert "No dispatcher on gpu has led or stood by" in fault(dispatchers)


def test_a_standby_that_leads_or_leaves_removes_its_row(
    engine: Engine, fault: Callable[..., str]
) -> None:
    leader, first, second = Leadership(), Leadership(), Leadership()
    assert [one.ask(engine) for one in (leader, first, second)] == [True, False, False]
    leader.leave(engine)
    second.leave(engine)
    assert first.ask(engine)
    with reading(engine) as connection:
        rows = connection.execute(leaders.select()).all()
    assert [(row.role, row.holder) for row in rows] == [("dispatcher", first.name)]


@pytest.mark.parametrize("module", ["worker.health", "producer.health"])
def test_the_command_names_the_fault_and_imports_nothing_heavy(
    module: str, database_url: str
) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['health', *sys.argv[1:]]\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "finally: assert not {'torch', 'celery', 'redis', 'numpy'} & set(sys.modules)"
    )
    for arguments, status, words in (((), 1, "No "), (("x",), 2, "process id")):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=os.environ | {"RESNEXT_DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr
