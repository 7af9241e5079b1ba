"""Rules and dashboards: their expressions are valid PromQL over metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import promql_parser
import pytest

from contract.metrics.metric import Metric
from producer.api.metrics import METRICS as API_METRICS
from producer.dispatcher.metrics import METRICS as DISPATCHER_METRICS
from tests.metrics import PROMTOOL, needs_promtool
from tests.monitoring import (
    BOARDS,
    DOCUMENT,
    GRAFANA,
    PROMETHEUS,
    ROOT,
    expressions,
    read_yaml,
    rules,
)
from worker.metrics.stages import METRICS as WORKER_METRICS

RESNEXTQ = Path(sys.executable).with_name("resnextq")
METRICS = WORKER_METRICS | DISPATCHER_METRICS | API_METRICS
# Metrics of Prometheus itself, and of the client library that all processes use.
USUAL = {
    "ALERTS": {"alertname", "alertstate", "severity"},
    "up": set(),
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
}  # fmt: skip
OF_EVERY_SERIES = {"job", "instance"}


EXPRESSIONS = expressions()
every_expression = pytest.mark.parametrize(
    "expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys()
)


def series_of(metric: Metric) -> dict[str, set[str]]:
    """Returns the names of a metric's samples, with their labels."""
    labels = set(metric.labels)
    if metric.kind != "histogram":
        return {metric.name: labels}
    ends = {"_bucket": labels | {"le"}, "_sum": labels, "_count": labels}
    return {f"{metric.name}{end}": with_ for end, with_ in ends.items()}


KNOWN = USUAL | {
    name: labels for metric in METRICS.values() for name, labels in series_of(metric).items()
}


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Returns the metrics that an expression names, and the labels it selects them by."""
    parts = re.sub(r"\b(?:by|on|group_left|without|ignoring)\s*\([^)]*\)", "", expression)
    bare = re.sub(r'"[^"]*"', '""', parts)
    found = re.findall(r"\b([a-zA-Z_]\w*)\b(?!\s*\()(?:\{([^}]*)\})?", bare)
    words = {"and", "or", "unless", "bool", "offset", "le"}
    in_braces = {word for _, inner in found for word in re.findall(r"\w+", inner)}
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=|!)", inner)))
        for name, inner in found
        if name not in words | in_braces and not re.fullmatch(r"\d*[smhd]", name)
    ]


def test_rules_dashboards_and_expressions_are_found() -> None:
    assert len(rules()) == 8
    assert [board.stem for board in BOARDS] == ["fleet", "jobs", "worker"]
    assert len(EXPRESSIONS) > 60


@every_expression
def test_each_expression_is_promql(expression) -> None:
    promql_parser.parse(expression)


def test_the_parser_refuses_invalid_promql() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (queue) (resnext_jobs")


@every_expression
def test_every_named_metric_exists_with_its_labels(expression) -> None:
    named = selectors(expression)
    assert named
    for name, labels in named:
        assert name in KNOWN, f"{name} is not one of our metrics"
        assert labels <= KNOWN[name] | OF_EVERY_SERIES, name


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('sum by (le, queue) (rate(a_b{c="d", e!~"f."}[5m])) > 0.1', [("a_b", {"c", "e"})]),
        ("a == 0 and on (queue) max by (queue) (b) > 1", [("a", set()), ("b", set())]),
        ("(sum(a) or vector(0)) < 1", [("a", set())]),
        ("time() - a unless on (q) b offset 5m", [("a", set()), ("b", set())]),
        ('a * on (i) group_left (q) b{x=~"y"}', [("a", set()), ("b", {"x"})]),
    ],
)  # fmt: skip
def test_the_metrics_of_an_expression_are_found(expression, found) -> None:
    promql_parser.parse(expression)
    assert selectors(expression) == found


def test_each_metric_is_on_a_dashboard() -> None:
    shown = {
        name
        for where, expression in EXPRESSIONS.items()
        if ".json" in where
        for name, _ in selectors(expression)
    }
    assert {
        metric.name for metric in METRICS.values() if not shown & series_of(metric).keys()
    } == set()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_has_a_severity_and_says_what_to_do(rule) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert len(rule["annotations"]["description"].split()) > 20


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_rule_is_documented(rule) -> None:
    row = f"| `{rule['alert']}` | {rule['labels']['severity']} |"
    assert row in DOCUMENT.read_text()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_the_settings_and_commands_in_a_rules_advice_exist(rule) -> None:
    from contract.settings import PREFIX, Settings

    text = rule["annotations"]["description"]
    settings = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", text)) <= settings
    assert set(re.findall(r"\bresnext_\w+", text)) <= METRICS.keys()
    assert set(re.findall(r"\bResnext\w+", text)) <= {one["alert"] for one in rules()}
    for command in re.findall(r"`resnextq (\w+)", text):
        subprocess.run([RESNEXTQ, command, "--help"], check=True, capture_output=True)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_rule_has_a_case_where_it_fires_and_one_where_it_does_not(rule) -> None:
    cases = [
        bool(case["exp_alerts"])
        for test in read_yaml(PROMETHEUS / "rules.test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    assert set(cases) == {True, False}


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_no_fault_and_the_docs_show_its_output(command) -> None:
    done = subprocess.run(
        [PROMTOOL, *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"$ promtool {' '.join(command)}\n{done.stdout.strip()}\n" in DOCUMENT.read_text()


@needs_promtool
def test_the_cases_notice_a_changed_rule(tmp_path) -> None:
    for name in ("rules.yml", "rules.test.yml"):
        (tmp_path / name).write_text((PROMETHEUS / name).read_text())
    (tmp_path / "rules.yml").write_text(
        (PROMETHEUS / "rules.yml").read_text().replace("> 900", "> 9000")
    )
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "rules.test.yml"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned(path) -> None:
    """Its panels have unique ids, do not overlap, and work with any Prometheus."""
    board = json.loads(path.read_text())
    assert board["uid"] == f"resnext-{path.stem}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        assert panel["title"]
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    (source,) = read_yaml(GRAFANA / "provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    (provider,) = read_yaml(GRAFANA / "provisioning/dashboards/resnext-queue.yml")["providers"]
    mounts = [volume.split(":") for volume in services["grafana"]["volumes"]]
    mounted = {inside: (ROOT / outside).resolve() for outside, inside, *_ in mounts}
    assert mounted[provider["options"]["path"]] == GRAFANA / "dashboards"
    assert mounted["/etc/grafana/provisioning"] == GRAFANA / "provisioning"


def test_prometheus_finds_the_services_of_docker_compose() -> None:
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    configured = read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    found = [one for scrape in configured for one in scrape["dns_sd_configs"]]
    for place in found:
        for name in place["names"]:
            assert services[name]["environment"]["RESNEXT_METRICS_ADDRESS"] == "0.0.0.0"
            assert place["port"] == 9108
    assert {name for place in found for name in place["names"]} == {
        "worker", "worker-cpu", "dispatcher", "api",
    }  # fmt: skip
