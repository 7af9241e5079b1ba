"""`resnextq flower` as a process, and requests to it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.integration.dispatching import WITHIN_S, until
from tests.integration.installation import Installation

LOGIN: Final = "me:chosen"


class Dashboard:
    """`resnextq flower` as a process."""

    def __init__(self, installation: Installation, home: Path, **variables: str) -> None:
        self._environment = installation.environment | {
            "RESNEXT_BROKER_URL": installation.settings.broker(),
            "RESNEXT_HOME": str(home),
            "RESNEXT_FLOWER_LOGIN": LOGIN,
            "RESNEXT_FLOWER_PORT": "0",
            **{f"RESNEXT_{name}": value for name, value in variables.items()},
        }
        self.home = home
        self._url = home / "flower-url"
        self._log = home.with_name("flower.log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("resnextq"), "flower"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        until(lambda: self._url.exists() or self.process.poll() is not None, lambda: self.log)
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(WITHIN_S) == 0, self.log

    @property
    def url(self) -> str:
        return self._url.read_text().strip()

    def ask(
        self, path: str, method: str = "GET", login: str | None = LOGIN, below: str | None = None
    ) -> tuple[int, str]:
        """Send a request and return status and text. `below` replaces the dashboard's address."""
        request = urllib.request.Request((below or self.url) + path, method=method)
        if login is not None:
            coded = base64.b64encode(login.encode()).decode()
            request.add_header("Authorization", f"Basic {coded}")
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def json(self, path: str) -> Any:
        return json.loads(self.ask(path)[1])

    def row(self, task: str) -> dict[str, Any]:
        """The task's row on the tasks page, requested as the page's script does."""
        query = "draw=1&start=0&length=100&order[0][column]=0&columns[0][data]=received"
        rows = self.json(f"/tasks/datatable?{urllib.parse.quote(query, safe='=&')}")["data"]
        (found,) = (row for row in rows if row["uuid"] == task)
        return dict(found)

    def knows(self, worker: str) -> bool:
        """Whether the dashboard has the worker's details, which Flower requests from the worker."""
        self.ask(f"/worker/{worker}")
        return "conf" in self.json("/api/workers?refresh=1").get(worker, {})


def run_a_chunk(installation: Installation, dashboard: Dashboard) -> str:
    """Run a chunk until the dashboard shows its task as finished, and return the task's id."""
    installation.submit(["double:ok", "double:fail:http_404", "double:fail:decode_error"])
    installation.publish()
    installation.await_states("done")
    tasks = until(
        lambda: {
            uuid: task
            for uuid, task in dashboard.json("/api/tasks").items()
            if task["state"] in {"SUCCESS", "FAILURE"}
        },
        lambda: dashboard.log,
    )
    (uuid,) = tasks
    return str(uuid)
