"""The metrics of a process, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import re
import shutil
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.wait import WITHIN_S

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: on Debian, apt install prometheus"
)


def port_of(log: str) -> int:
    """Returns the port on which the process with this log serves its metrics."""
    port = re.search(r"metrics on 127\.0\.0\.1, port (\d+)", log)
    assert port is not None, log
    return int(port[1])


def shown_by(log: str) -> str:
    """Returns the metrics as text."""
    with urlopen(f"http://127.0.0.1:{port_of(log)}/metrics", timeout=WITHIN_S) as response:
        text: str = response.read().decode()
    return text


def samples(text: str) -> dict[str, float]:
    """Returns samples by name and label values, with the labels in alphabetical order."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names(text: str) -> set[str]:
    """Returns the metrics' declared names: with `_total`, without `_bucket` and the like."""
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
