"""The real commands, run as processes with an environment of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

RESNEXTQ = Path(sys.executable).with_name("resnextq")
PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
POLL_S = 0.1


@dataclass
class Installation:
    """One set of settings, and the processes that run with them."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        """A command that ends; its standard output."""
        done = subprocess.run(
            [RESNEXTQ, *arguments],
            env=self.environment,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that stays, in a process group of its own."""
        with self.log(arguments[0]).open("ab") as log:
            process = subprocess.Popen(
                [RESNEXTQ, *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log(self, command: str) -> Path:
        return self.folder / f"{command}.log"

    def status(self, job: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", job, "--json"))
        return status

    def wait(self, job: str, *, until: str = "completed", within_s: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while (status := self.status(job))["state"] != until:
            assert time.monotonic() < deadline, f"{status}\n{self.tails()}"
            time.sleep(POLL_S)
        return status

    def results(self, job: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("results", job).splitlines()]

    def tails(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in self.folder.glob("*.log")
        )

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def installation(tmp_path: Path, broker_url: str, database_url: str) -> Iterator[Installation]:
    """`random` weights in fp32, so that answers can be compared; file URIs under `tmp_path`."""
    environment = {
        **os.environ,
        "RESNEXT_HOME": str(tmp_path / "home"),
        "RESNEXT_BROKER_URL": broker_url,
        "RESNEXT_DATABASE_URL": database_url.replace("+psycopg", ""),
        "RESNEXT_WEIGHTS": "random",
        "RESNEXT_PRECISION": "fp32",
        "RESNEXT_FETCH_ALLOW": "127.0.0.1",
        "RESNEXT_FILE_ROOTS": f"{tmp_path},{PICTURES}",
        "RESNEXT_LOADERS": "2",
        "RESNEXT_CHUNK_IMAGES": "8",
        "RESNEXT_LEASE_S": "2",
        "RESNEXT_RETRY_BACKOFF_S": "0.2",
    }
    installed = Installation(tmp_path, environment)
    yield installed
    installed.stop()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a real HTTP server that serves the demo's pictures."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(PICTURES)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
