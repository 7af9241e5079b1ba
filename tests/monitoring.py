"""The rules and dashboards of deploy/, and every expression in them and in docs/monitoring.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
DOCUMENT = ROOT / "docs" / "monitoring.md"


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


def rules() -> list[dict[str, Any]]:
    (group,) = read_yaml(PROMETHEUS / "rules.yml")["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions_of(node: Any) -> Iterator[str]:
    """Yields the expressions of a dashboard: of its panels, annotations and label lists."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            elif key == "definition":
                yield re.fullmatch(r"label_values\((.+), \w+\)", value)[1]
            else:
                yield from expressions_of(value)
    elif isinstance(node, list):
        for one in node:
            yield from expressions_of(one)


def filled_in(expression: str) -> str:
    """Fills in the variables, as Grafana does before it sends an expression."""
    filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".+")
    assert "$" not in filled, expression
    return filled


def expressions() -> dict[str, str]:
    """Returns every expression by the place where it is written."""
    found = {f"rule {rule['alert']}": rule["expr"] for rule in rules()}
    for board in BOARDS:
        asked = expressions_of(json.loads(board.read_text()))
        found |= {f"{board.name} {n}": filled_in(expr) for n, expr in enumerate(asked)}
    queries = DOCUMENT.read_text().partition("## Queries")[2].replace("\\|", "|")
    in_document = re.findall(r"^\| .+ \| `(.+)` \|$", queries, re.MULTILINE)
    return found | {f"{DOCUMENT.name} {n}": expr for n, expr in enumerate(in_document)}
