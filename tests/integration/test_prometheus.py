"""A real Prometheus scrapes a real dispatcher, evaluates the rules, and answers the dashboards."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from ruamel.yaml import YAML
from sqlalchemy import Engine

from contract.settings import Settings
from tests.integration.dispatcher import Dispatch, leading
from tests.integration.dispatching import QUEUE, WITHIN_S, submit_chunks, until
from tests.metrics import port_of
from tests.monitoring import PROMETHEUS, expressions
from tests.ports import free_port

PROGRAM = shutil.which("prometheus")
pytestmark = [
    pytest.mark.skipif(
        PROGRAM is None, reason="prometheus is missing: on Debian, apt install prometheus"
    ),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


@pytest.fixture
def dispatcher(settings: Settings, tmp_path: Path) -> Iterator[Dispatch]:
    with leading(settings, tmp_path / "dispatch.log", METRICS_PORT="0") as started:
        yield started


class Prometheus:
    """A server with the rules and configuration of deploy/, but other targets and intervals."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        yaml = YAML(typ="safe", pure=True)
        given = yaml.load((PROMETHEUS / "prometheus.yml").read_text())
        given["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        given["rule_files"] = [str(PROMETHEUS / "rules.yml")]
        given["scrape_configs"] = [
            {
                "job_name": one["job_name"],
                "static_configs": [{"targets": [f"127.0.0.1:{targets[one['job_name']]}"]}],
            }
            for one in given["scrape_configs"]
            if one["job_name"] in targets
        ]
        configuration = folder / "prometheus.yml"
        with configuration.open("w") as file:
            yaml.dump(given, file)
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=output,
                stderr=output,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=WITHIN_S) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            self.ask("targets")
        except URLError:
            return False
        return True

    def value(self, expression: str) -> float | None:
        """The value of the expression's only series, or None if there is none."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def prometheus(dispatcher: Dispatch, tmp_path: Path) -> Iterator[Prometheus]:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    started = Prometheus(folder, {"resnext-dispatcher": port_of(dispatcher.said)})
    until(started.answers)
    yield started
    started.process.terminate()
    started.process.wait(WITHIN_S)


def test_prometheus_sees_work_without_a_worker_and_answers_every_question(
    engine: Engine, prometheus: Prometheus
) -> None:
    submit_chunks(engine, 3)
    until(lambda: prometheus.value(f'resnext_pending_images{{queue="{QUEUE}"}}') == 3)
    assert prometheus.value("sum(resnext_dispatcher_leading)") == 1

    def alerts() -> dict[str, str]:
        (group,) = prometheus.ask("rules")["groups"]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}, group
        return {rule["name"]: rule["state"] for rule in group["rules"]}

    # The alert would fire after some minutes. promtool tests that it does.
    until(lambda: alerts()["ResnextNoWorker"] == "pending")
    assert alerts()["ResnextNoDispatcherLeads"] == "inactive"
    assert alerts()["ResnextNothingStored"] == "pending"
    for expression in expressions().values():
        prometheus.ask("query", query=expression)
