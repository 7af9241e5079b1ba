"""Writes settings.md, errors.md and metrics.md from the code: `make docs`. A test says when they
are stale.
"""

# ruff: noqa: INP001  (a script beside what it writes)

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from contract.failure import ERROR_CODES, RETRIED_HTTP
from contract.settings import PREFIX, Settings
from worker.metrics.stages import METRICS

FOLDER = Path(__file__).parent

# The first field of each section, in the order of the class.
SECTIONS = {
    "home": "Places and servers",
    "model": "The model",
    "chunk_images": "Jobs",
    "batch_images": "Workers",
    "fetch_allow": "Fetching and decoding",
    "window_s": "Dispatcher and life of a worker",
    "flower_login": "Dashboard, metrics and log",
}
FILES = frozenset({"fetch_headers"})
UNITS = {"_images_per_s": "images a second"}  # before its own end
UNITS |= {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "_images": "images"}
UNITS |= {"_pixels": "pixels"}
# Defaults that a machine decides.
DECIDED = {
    "home": "`$XDG_DATA_HOME/resnext-queue`, that is `~/.local/share/resnext-queue`",
    "cache": "`$XDG_CACHE_HOME/resnext-queue`, that is `~/.cache/resnext-queue`",
    "loaders": "one for each usable core, divided by the GPUs",
    "weights": "those that the model is published with",
    "torch_threads": "decided by the device",
    "batch_images": "decided by the device",
    "chunk_images": "64, then 128, then 256",
}


def main() -> None:
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def documents() -> dict[str, str]:
    """What stands in each generated file."""
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
        f"Every setting is a variable `{PREFIX}…` of the environment, or a line of a file `.env`",
        "in the current folder. An option of the command line goes before the environment, and",
        "the environment before the file. An empty variable counts as unset. A bad value stops",
        "the program with exit status 2, naming the variable, its value and what is allowed;",
        "passwords are shown nowhere. Lists are separated by commas.",
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
    """The text below each field of the class; KeyError in `settings_document` if one has none."""
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
    """The values that are taken, with their unit."""
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
        "An image that has no classes has one of these codes instead, in `results.error_code` and",
        "in `error.code` of the JSON; `error_detail` says more of the one case. What may pass is",
        "tried again, alone and later, up to `RESNEXT_MAX_ATTEMPTS` times, with growing waits;",
        "everything else is final at once.",
        "",
        "| code | cause | tried again | what to do |",
        "|---|---|---|---|",
        (
            f"| `http_NNN` | The server answered with status NNN. | {again}, 5xx "
            "| Open the address in a browser to see why. |"
        ),
    ]
    for code in ERROR_CODES.values():
        again = "yes" if code.retried else "no"
        lines.append(f"| `{code.name}` | {code.cause} | {again} | {code.advice} |")
    return "\n".join(lines) + "\n"


def metrics_document() -> str:
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `make docs` from worker/metrics/stages.py: change that. -->",
        "",
        f"What a worker shows to Prometheus where `{PREFIX}METRICS_PORT` is set; see",
        "[how to watch workers](how-to.md#watch-workers-with-prometheus). A histogram has samples",
        "`…_bucket`, `…_count` and `…_sum`. Besides there are the usual ones of a process,",
        "`process_resident_memory_bytes` and so on, of the worker's main process alone.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
