"""Writes docs/licences.md, the licences of all packages installed with this one: `make docs`.

It lists the packages that requirements/ pins. Each installed package states its own licence. A
package that is not installed here (for another platform or Python) keeps its line. A test fails if
the document is stale.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "licences.md"
LOCKS: Final = ("producer", "flower", "worker")
_PIN: Final = re.compile(r"^([\w.-]+)==", re.MULTILINE)
_NAME: Final = re.compile(r"[\w.-]+")
_LINE: Final = re.compile(r"^\| `([\w.-]+)` \| (.+?) \|", re.MULTILINE)
_CLASSIFIER: Final = "License :: "
_OSI: Final = "OSI Approved :: "
_SAYS_NOTHING: Final = ("OSI Approved", "Other/Proprietary License")
# Some packages put the whole text of their licence into this field.
_LONGEST: Final = 60
UNKNOWN: Final = "not stated"
HEAD: Final = """# Licences

<!-- Written by `make docs` from requirements/ and the installed packages. Do not edit. -->

The packages that are installed with resnext-queue, and the licence that each one states. The
Docker images contain these packages; the wheel does not. resnext-queue is under the
[BSD 3-Clause licence](../LICENSE), and so is its client, which needs only urllib3. Weights have
[their own licences](model.md#models).

A *producer* submits, dispatches and serves the API, *Flower* is the dashboard, and a *worker*
classifies.

| package | licence | for |
|---|---|---|
"""


def document(before: str) -> str:
    """Makes the text of docs/licences.md.

    Args:
        before: the file's current text.
    """
    known = dict(_LINE.findall(before))
    lines = [
        f"| `{name}` | {_installed(name) or known.get(name) or UNKNOWN} | {', '.join(users)} |\n"
        for name, users in sorted(_users().items())
    ]
    return HEAD + "".join(lines)


def _users() -> dict[str, list[str]]:
    """By package, the programs and extras that it is installed for."""
    found = dict[str, list[str]]()
    for lock in LOCKS:
        for name in _pins(lock):
            found.setdefault(name, []).append(lock)
    pinned = set(found)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, requirements in project["optional-dependencies"].items():
        for name in {_NAME.match(each)[0] for each in requirements} - {*pinned, project["name"]}:  # type: ignore[index]
            found.setdefault(name, []).append(f"the extra `{extra}`")
    return found


def _pins(lock: str) -> set[str]:
    return set(_PIN.findall((ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")))


def _installed(name: str) -> str | None:
    """The licence of a package; None if it is not installed or does not state one."""
    try:
        return _licence(metadata(name).json)
    except PackageNotFoundError:
        return None


def _licence(told: dict[str, Any]) -> str | None:
    if told.get("license_expression"):
        return str(told["license_expression"])
    names = [
        each.removeprefix(_CLASSIFIER).removeprefix(_OSI)
        for each in told.get("classifier", ())
        if each.startswith(_CLASSIFIER) and each.rpartition(" :: ")[2] not in _SAYS_NOTHING
    ]
    if names:
        return "; ".join(names)
    text = str(told.get("license") or "").strip()
    return text if text and len(text) <= _LONGEST and "\n" not in text else None


if __name__ == "__main__":
    there = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    DOCUMENT.write_text(document(there), encoding="utf-8")
