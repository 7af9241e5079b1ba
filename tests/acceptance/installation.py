"""The real commands, run as processes in their own environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pictures.demo import PICTURES

RESNEXTQ = Path(sys.executable).with_name("resnextq")
WITHIN_S = 400


@dataclass
class Installation:
    """Settings, and the processes that run with them."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit status."""
        return subprocess.run(
            [RESNEXTQ, *arguments],
            env=self.environment,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that must succeed, and return its standard output."""
        done = self.call(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that keeps running, in its own process group."""
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

    def submit(self, *uris: str) -> str:
        """Submit a job and return its id."""
        return self.run("submit", "-", stdin="\n".join(uris)).strip()

    def status(self, job: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", job, "--json"))
        return status

    def wait(
        self,
        job: str,
        condition: Callable[[dict[str, Any]], bool] = lambda status: status["pending"] == 0,
    ) -> dict[str, Any]:
        """Watch the job, and return its first status that meets the condition."""
        watching = subprocess.Popen(
            [RESNEXTQ, "status", job, "--watch", "--json"],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        late = threading.Timer(WITHIN_S, watching.kill)
        late.start()
        seen: dict[str, Any] = {}
        try:
            for line in watching.stdout:
                seen = json.loads(line)
                if condition(seen):
                    return seen
        finally:
            late.cancel()
            watching.kill()
            watching.communicate()
        raise AssertionError(
            f"the condition never held; the last status was {seen}\n{self.tails()}"
        )

    def results(self, job: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("results", job).splitlines()]

    def tails(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in self.folder.rglob("*.log")
        )

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=300)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The environment variables of a machine with these settings and no others.

    A smaller network than the default halves the time, and random weights need no download. An
    image that a test holds back does not time out, however busy the machine is.
    """
    return os.environ | {
        "HOME": str(folder),
        "RESNEXT_HOME": str(folder / "home"),
        "RESNEXT_MODEL": "resnext50_32x4d",
        "RESNEXT_WEIGHTS": "random",
        "RESNEXT_FETCH_ALLOW": "127.0.0.1",
        "RESNEXT_FILE_ROOTS": f"{folder},{PICTURES}",
        "RESNEXT_LOADERS": "2",
        "RESNEXT_CHUNK_IMAGES": "8",
        "RESNEXT_BATCH_IMAGES": "4",
        "RESNEXT_LEASE_S": "3",
        "RESNEXT_RETRY_BACKOFF_S": "0.2",
        "RESNEXT_FETCH_DEADLINE_S": "300",
        "RESNEXT_FLOWER_PORT": "0",
        **settings,
    }
