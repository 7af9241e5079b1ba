"""Write settings.md, errors.md and metrics.md from the code: `make docs`.

A test fails if they are stale.
"""

# ruff: noqa: INP001  (a script beside what it writes)

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from contract.failure import ERROR_CODES, RETRIED_HTTP
from contract.metrics.metric import Metric
from contract.settings import PREFIX, Settings
from producer.api.metrics import METRICS as API_METRICS
from producer.dispatcher.metrics import METRICS as DISPATCHER_METRICS
from producer.dispatcher.metrics import NOTE, OF_THE_FLEET, READ_EVERY_S
from worker.metrics.stages import METRICS as WORKER_METRICS

FOLDER = Path(__file__).parent

# The first field of each section, in the order of the class.
SECTIONS = {
    "home": "Places and servers",
    "model": "The model",
    "chunk_images": "Jobs",
    "batch_images": "Workers",
    "fetch_allow": "Fetching and decoding",
    "window_s": "Dispatcher and life of a worker",
    "flower_login": "Dashboard, API, metrics and log",
}
FILES = frozenset({"fetch_headers"})
# The longer ends come first.
UNITS = {"_images_per_s": "images per second", "_requests_per_s": "requests per second"}
UNITS |= {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "_images": "images"}
UNITS |= {"_pixels": "pixels"}
# Defaults that a machine decides.
DECIDED = {
    "home": "`$XDG_DATA_HOME/resnext-queue`, usually `~/.local/share/resnext-queue`",
    "cache": "`$XDG_CACHE_HOME/resnext-queue`, usually `~/.cache/resnext-queue`",
    "loaders": "one per usable core, divided by the number of GPUs",
    "weights": "the model's own",
    "torch_threads": "depends on the device",
    "batch_images": "depends on the device",
    "chunk_images": "64, then 128, then 256",
}


def main() -> None:
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def documents() -> dict[str, str]:
    """Return the text of each generated file, by file name."""
    return {
        "settings.md": settings_document(),
        "errors.md": errors_document(),
        "metrics.md": metrics_document(),
    }


def settings_document() -> str:
    lines = [
        "# Settings",
        "",
        "<!-- Written by `make docs` from contract/settings.py: change that. -->",
        "",
        f"Set a setting as an environment variable `{PREFIX}…`, or as a line of a file `.env` in",
        "the current folder. Command-line options override the environment, and the environment",
        "overrides the file. An empty variable counts as unset. Separate the items of a list",
        "with commas.",
        "",
        "If a value is invalid, the program exits with status 2 and names the variable, its value",
        "and the allowed values. It never shows passwords.",
    ]
    meanings = read_meanings()
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", ""]
            lines += ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
        cells = [f"`{PREFIX}{name.upper()}`", default(name, field), allowed(name, field)]
        lines.append("| " + " | ".join([*cells, meanings[name]]) + " |")
    return "\n".join(lines) + "\n"


def read_meanings() -> dict[str, str]:
    """Return the docstring of each setting, by field name."""
    (tree,) = ast.parse(dedent(inspect.getsource(Settings))).body
    if not isinstance(tree, ast.ClassDef):
        raise TypeError("Settings is no class")
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                found[name] = " ".join(meaning.split())
    return found


def default(name: str, field: FieldInfo) -> str:
    if name in DECIDED:
        return DECIDED[name]
    value = field.get_default()
    return "none" if value in (None, "", ()) else f"`{value}`"


def allowed(name: str, field: FieldInfo) -> str:
    """Return the allowed values of a setting, with their unit."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    kind = next((k for k in get_args(field.annotation) if k is not NoneType), field.annotation)
    if get_origin(kind) is Annotated and get_origin(field.annotation) is not tuple:
        kind = get_args(kind)[0]
    if kind in (int, float):
        unit = next((word for end, word in UNITS.items() if name.endswith(end)), "")
        return " ".join(part for part in (limits(field.metadata), unit) if part)
    if kind is SecretStr:
        return "a text, kept secret"
    if kind is Path:
        return "a file" if name in FILES else "a folder"
    return "a text" if kind is str else "a list"


def limits(metadata: list[Any]) -> str:
    return " and ".join(_limits(metadata))


def _limits(metadata: list[Any]) -> Iterator[str]:
    for rule in metadata:
        match rule:
            case annotated_types.Ge(ge=least):
                yield f"≥ {least}"
            case annotated_types.Gt(gt=least):
                yield f"> {least}"
            case annotated_types.Le(le=most):
                yield f"≤ {most}"


def errors_document() -> str:
    again = ", ".join(str(status) for status in sorted(RETRIED_HTTP) if status < 500)  # noqa: PLR2004
    lines = [
        "# Error codes",
        "",
        "<!-- Written by `make docs` from contract/failure.py: change that. -->",
        "",
        "A failed image has one of these codes, in `results.error_code` and in `error.code` of the",
        "JSON. `error_detail` explains the case. Transient errors are tried again later, up to",
        "`RESNEXT_MAX_ATTEMPTS` times, with growing waits. All other errors are final at once.",
        "",
        "To run failed images again, use [`resnextq retry`](jobs.md#retry-failed-images).",
        "",
        "| code | cause | tried again | what to do |",
        "|---|---|---|---|",
        (
            f"| `http_NNN` | The server answered with status NNN. | {again}, 5xx "
            "| 404, 410: correct the address. 401, 403: send what the server wants with "
            "RESNEXT_FETCH_HEADERS. 429: ask less often. 5xx: retry later. |"
        ),
    ]
    for code in ERROR_CODES.values():
        again = "yes" if code.retried else "no"
        lines.append(f"| `{code.name}` | {code.cause} | {again} | {code.advice} |")
    return "\n".join(lines) + "\n"


def metrics_document() -> str:
    of_a_dispatcher = [
        metric for name, metric in DISPATCHER_METRICS.items() if name not in OF_THE_FLEET
    ]
    of_the_fleet = [DISPATCHER_METRICS[name] for name in OF_THE_FLEET]
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `make docs`: change worker/metrics/stages.py,",
        "producer/dispatcher/metrics.py or producer/api/metrics.py. -->",
        "",
        "Metrics that workers, dispatchers and the HTTP API serve for Prometheus if",
        f"`{PREFIX}METRICS_PORT` is set; see [monitoring](monitoring.md). A histogram has",
        "samples `…_bucket`, `…_count` and `…_sum`. Each process also shows the usual metrics of a",
        "process, such as `process_resident_memory_bytes`; a worker shows those of its main",
        "process alone.",
        "",
        "## Workers",
        "",
        *_table(WORKER_METRICS.values()),
        "",
        "## Dispatchers",
        "",
        "Each dispatcher shows these, the one that leads and those that stand by:",
        "",
        *_table(of_a_dispatcher),
        "",
        "The dispatcher that leads also shows these. It reads SQL and Redis when Prometheus asks,",
        f"at most every {READ_EVERY_S:g} s, and never the table of results. {NOTE}",
        "",
        *_table(of_the_fleet),
        "",
        "## The HTTP API",
        "",
        "The API also serves these at its own `/metrics`, which needs a key.",
        "",
        *_table(API_METRICS.values()),
    ]
    return "\n".join(lines) + "\n"


def _table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


if __name__ == "__main__":
    main()
