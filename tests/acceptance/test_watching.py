"""The JSON logs of `resnextq up`, and its Flower, while a real job runs."""

from __future__ import annotations

import base64
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.wait import WITHIN_S, until

MOST_BYTES = 4096
LONGEST_LINE_BYTES = 64 * 1024
PROGRAMS = ("dispatch", "flower", "serve", "worker")


@contextmanager
def up(machine: Any, ready: str) -> Iterator[Path]:
    """Run `up` for the length of the block, then stop it. Yields its home."""
    process = machine.start("up")
    log = machine.log("up")
    try:
        until(lambda: ready in log.read_text() or process.poll() is not None, machine.tails)
        assert process.poll() is None, machine.tails()
        yield Path(machine.environment["RESNEXT_HOME"])
    finally:
        process.terminate()
        assert process.wait(timeout=300) == 0


def lines_of(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_every_log_line_is_json_and_carries_its_jobs_id(
    bare_installation: Any, many: list[str], gate: Any
) -> None:
    machine = bare_installation
    machine.environment |= {
        "RESNEXT_LOG_FORMAT": "json",
        "RESNEXT_LOG_FILE_BYTES": str(MOST_BYTES),
        "RESNEXT_LOG_FILES": "1000",
    }
    gate.set()
    with up(machine, '"Ready: ') as home:
        host = many[0].rpartition("/")[0]
        hostile = f"{host}/nothing%0A%1B[2J?\u202e"
        job = machine.submit(*many, hostile)
        assert machine.wait(job)["classified"] == len(many)
    logs = home / "logs"
    told = lines_of(machine.log("up"))
    for program in PROGRAMS:
        files = sorted(logs.glob(f"{program}.log*"))
        assert files, program
        told += lines_of(*files)
        for file in files:
            assert file.read_text().replace("\n", "").isprintable()
            assert file.stat().st_size <= MOST_BYTES + LONGEST_LINE_BYTES
    assert all({"time", "level", "logger", "message"} <= set(line) for line in told)
    about = [line for line in told if job in str(line)]
    assert all(line.get("job") == job for line in about)
    assert {line["logger"] for line in about} >= {"worker.chunk.task", "producer.dispatcher.count"}
    of_chunks = [line for line in about if line["logger"] == "worker.chunk.task"]
    assert {line["chunk"] for line in of_chunks} == set(range(6))
    assert len({line["worker"] for line in of_chunks}) == 1
    assert len(list(logs.glob("worker.log.*"))) > 0, "the worker's log was rotated"


class Dashboard:
    """The dashboard, as a person with the home's login sees it."""

    def __init__(self, home: Path) -> None:
        self.url = (home / "flower-url").read_text().strip()
        self._login = (home / "flower-login").read_text().strip()

    def ask(self, path: str, login: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path)
        coded = base64.b64encode((login or self._login).encode()).decode()
        request.add_header("Authorization", f"Basic {coded}")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def rows(self) -> list[dict[str, Any]]:
        query = "draw=1&start=0&length=100&order[0][column]=0&columns[0][data]=received"
        text = self.ask(f"/tasks/datatable?{urllib.parse.quote(query, safe='=&')}")[1]
        return list(json.loads(text)["data"])

    def busy_workers(self) -> list[dict[str, Any]]:
        """The workers that run two chunks, according to the heartbeat they send every 2 s."""
        workers = json.loads(self.ask("/workers?json=1")[1])["data"]
        return [worker for worker in workers if worker["active"] == 2]

    def states(self) -> list[str]:
        return sorted(row["state"] for row in self.rows())


def test_the_dashboard_shows_a_job_while_it_runs(
    bare_installation: Any, many: list[str], gate: Any
) -> None:
    """A job of three chunks has ended. The two chunks of the next one are held."""
    machine = bare_installation
    machine.environment["RESNEXT_CHUNK_PATIENCE_S"] = str(WITHIN_S)
    with up(machine, "\nReady: ") as home:
        dashboard = Dashboard(home)
        ended = machine.submit(*many[:24])
        assert machine.wait(ended)["classified"] == 24
        job = machine.submit(*many[24:])
        until(
            lambda: dashboard.states() == ["STARTED"] * 2 + ["SUCCESS"] * 3,
            lambda: f"{dashboard.rows()}",
        )
        assert {row["kwargs"] for row in dashboard.rows()} == {
            f"job={one} chunk={chunk} generation=1 images=8"
            for one, chunks in ((ended, 3), (job, 2))
            for chunk in range(chunks)
        }
        (worker,) = until(dashboard.busy_workers, lambda: dashboard.ask("/workers?json=1")[1])
        assert (worker["status"], worker["active"]) == (True, 2)
        assert re.fullmatch(
            rf"resnextq@{re.escape(socket.gethostname())}-cpu(-\d+)?", worker["hostname"]
        )
        for page in ("/", "/tasks", "/broker", f"/worker/{worker['hostname']}"):
            assert dashboard.ask(page)[0] == 200
        refused = [dashboard.ask("/tasks", login=f"resnextq:{n}")[0] for n in range(20)]
        assert set(refused) == {401, 429}, "wrong logins meanwhile do not delay the job"
        gate.set()
        assert machine.wait(job)["classified"] == 16
