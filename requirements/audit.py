"""Asks OSV, the database of advisories, for every version that the files beside this one pin.

    make audit

By pip-audit, which has an environment of its own. Nothing is installed or resolved: the pins and
their hashes are all there is. Exit status 1: a version has a known vulnerability; 2: not all of
them could be asked for, so nobody knows.
"""

# ruff: noqa: INP001  (a script beside what it reads)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
VULNERABLE = 1
UNKNOWN = 2
MOST_CHARS = 300


def main(pip_audit: str, *options: str) -> int:
    """
    Args:
        pip_audit: the command.
        options: of it, such as `--osv-url`.
    """
    return max(audit(lock, [pip_audit, *options]) for lock in sorted(FOLDER.glob("*.txt")))


def audit(lock: Path, command: list[str]) -> int:
    """One file, since two of them may pin two versions."""
    done = subprocess.run(
        [*command, "--vulnerability-service=osv", "--require-hashes", "--disable-pip",
         "--progress-spinner=off", "--format=json", f"--requirement={lock}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1][:MOST_CHARS]
        return tell(UNKNOWN, f"{lock.name}: not audited, pip-audit or the service failed: {why}")
    vulnerable = [(one, known) for one in found for known in one.get("vulns", ())]
    for one, known in vulnerable:
        tell(VULNERABLE, f"{lock.name}: {describe(one, known)}")
    unknown = [one["name"] for one in found if "skip_reason" in one]
    if unknown or not found:
        return tell(UNKNOWN, f"{lock.name}: not audited: {', '.join(unknown) or 'nothing in it'}")
    if vulnerable:
        return VULNERABLE
    return tell(0, f"{lock.name}: {len(found)} versions, no known vulnerability")


def describe(found: dict[str, Any], vulnerability: dict[str, Any]) -> str:
    names = ", ".join([vulnerability["id"], *vulnerability.get("aliases", ())])
    fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
    return f"{found['name']} {found['version']}: {names}; fixed by {fixed}"


def tell(status: int, words: str) -> int:
    print(words, file=sys.stderr if status else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
