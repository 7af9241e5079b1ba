"""docs/scaling.md: its tables are what the simulation prints, and it names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.simulation.__main__ import MOST, with_tables
from benchmarks.simulation.calibration import costs_of, read, rows_for
from benchmarks.simulation.model import simulate
from benchmarks.simulation.tables import (
    agreement,
    as_measured,
    costs_alone,
    costs_table,
    difference,
    disk,
    fleet_row,
    runs,
    table,
)
from contract.settings import PREFIX, Settings
from producer.api.metrics import METRICS as API_METRICS
from producer.dispatcher.metrics import METRICS as DISPATCHER_METRICS
from worker.metrics.stages import METRICS as WORKER_METRICS

DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
METRICS = {
    metric.name
    for metrics in (WORKER_METRICS, DISPATCHER_METRICS, API_METRICS)
    for metric in metrics.values()
}
# Of the client library, which all processes use.
USUAL = {"process_cpu_seconds_total"}
SETTINGS = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
TEXT = DOCUMENT.read_text()
MEASURED = read()
COSTS = costs_of(MEASURED)
CASES = rows_for(MEASURED, "comparison")


def of_table(title: str) -> list[list[str]]:
    """The cells of the table below this heading, without its head."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
    return [re.split(r" \| ", line) for line in lines[1:] if not line.startswith("---")]


TROUBLE = of_table("What is wrong?")


def test_there_is_help_for_many_symptoms() -> None:
    assert len(TROUBLE) > 15


@pytest.mark.parametrize("row", TROUBLE, ids=lambda row: row[0])
def test_a_symptom_has_a_metric_and_a_setting_that_exist(row) -> None:
    _, metric, setting = row
    metrics, settings = re.findall(r"`(\w+)`", metric), re.findall(r"`(RESNEXT_\w+)", setting)
    assert metrics
    assert set(metrics) <= METRICS | USUAL
    assert set(settings) <= SETTINGS
    assert settings or setting.startswith("none: ")


@pytest.mark.parametrize("name", ["costs", "runs", "agreement", "disk"])
def test_a_table_is_what_the_simulation_prints(name) -> None:
    made = {
        "costs": lambda: costs_table(COSTS),
        "runs": lambda: runs(MEASURED),
        "agreement": lambda: agreement(MEASURED, COSTS),
        "disk": lambda: disk(MEASURED),
    }[name]()
    expected = with_tables(TEXT, {name: made})
    assert expected == TEXT, "stale: run `python -m benchmarks.simulation --write`"


@pytest.mark.parametrize(("device", "workers"), [(500, 1), (500, 16), (2_500, 4)])
def test_a_row_of_fleets_is_what_the_simulation_prints(device, workers) -> None:
    row = table((), [fleet_row(COSTS, MEASURED, device, workers)]).splitlines()[-1]
    assert row in TEXT, "stale: run `python -m benchmarks.simulation --write`"


def test_the_page_says_how_well_simulation_and_measurement_agree() -> None:
    off = {
        (row["workers"], row["device_images_s"], row["chunk"]): abs(
            difference(row, simulate(as_measured(row, MEASURED["cores"]), costs_alone(COSTS)))
        )
        for row in CASES
    }
    with_devices = max(found for (_, device, _), found in off.items() if device)
    missed = sum(found > MOST for found in off.values())
    assert max(off.values()) <= MOST
    assert f"the simulation is within {with_devices:.1%} of the measurement" in TEXT
    assert f"{missed} of {len(off)} sizes miss the mark of {MOST:.0%}" in TEXT
    assert f"and it is within {max(off.values()):.1%}" in TEXT
