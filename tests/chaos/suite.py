"""Runs the rows, some at once, each for a limited time; returns the outcome of each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.chaos.outcome import Outcome
from tests.chaos.process import ROOT
from tests.chaos.rows import Row
from tests.chaos.stack import Database

AT_ONCE: Final = 3
# The whole suite is to end within 45 minutes.
ROW_WITHIN_S: Final = 900.0
END_WITHIN_S: Final = 30.0


def run_suite(
    rows: Sequence[tuple[Row, Database]], *, times: int | None, seed: int, at_once: int
) -> list[Outcome]:
    """Returns the outcomes in the order of the rows."""

    def run(one: tuple[Row, Database]) -> Outcome:
        row, database = one
        began = time.monotonic()
        outcome = run_apart(row, database, times=times or row.times, seed=seed)
        mark = "good" if outcome.is_good else "FAILED"
        seconds = time.monotonic() - began
        sys.stderr.write(f"{mark:<8}{row.name} on {database}, after {seconds:.0f} s\n")
        return outcome

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(run, rows))


def run_apart(
    row: Row, database: Database, *, times: int, seed: int, short: bool = False
) -> Outcome:
    """Runs one row in a process of its own, with its own mounts where it needs a small disk."""
    wrapper: list[str] = []
    if row.small_disk:
        found = _namespace()
        if found is None:
            why = "this user can mount no small file system (unshare --user --mount is refused)"
            return Outcome(name=row.name, database=database, skipped=why)
        wrapper = found
    command = [*wrapper, sys.executable, "-m", "tests.chaos.one_row", row.name, database]
    command += [str(times), str(seed), *(["--short"] if short else [])]
    return _outcome(row, database, *_run(command))


def _run(command: list[str]) -> tuple[int | None, str, str]:
    """Returns its exit status (None: it took too long) and its two outputs."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=ROW_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                out, errors = process.communicate(timeout=END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, errors = process.communicate()
            return None, out, errors
        return process.returncode, out, errors


def _outcome(row: Row, database: Database, status: int | None, out: str, errors: str) -> Outcome:
    if status == 0:
        return Outcome.decode(out.splitlines()[-1])
    why = f"not finished after {ROW_WITHIN_S:.0f} s" if status is None else f"exit status {status}"
    return Outcome(name=row.name, database=database, complaints=(f"{why}:\n{errors[-3000:]}",))


def _namespace() -> list[str] | None:
    """A command's beginning that gives it mounts of its own; None: not permitted."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    wrapper = ["unshare", "--mount", *user]
    if shutil.which("unshare") is None:
        return None
    probe = [*wrapper, "mount", "-t", "tmpfs", "probe", "/mnt"]
    done = subprocess.run(probe, capture_output=True, check=False)
    return wrapper if done.returncode == 0 else None
