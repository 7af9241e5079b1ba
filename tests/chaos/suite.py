"""Runs the rows, several at once, each for a limited time, and returns their outcomes."""

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
# For a row that `make test` runs, and for one of the whole suite.
ROW_WITHIN_S: Final = 900.0
WHOLE_ROW_WITHIN_S: Final = 2400.0
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
    """Runs one row in its own process, with its own mounts if it needs a small disk."""
    wrapper: list[str] = []
    if row.small_disk:
        found = _namespace()
        if found is None:
            why = "this user can mount no small file system (unshare --user --mount is refused)"
            return Outcome(name=row.name, database=database, skipped=why)
        wrapper = found
    command = [*wrapper, sys.executable, "-m", "tests.chaos.one_row", row.name, database]
    command += [str(times), str(seed), *(["--short"] if short else [])]
    within_s = ROW_WITHIN_S if short else WHOLE_ROW_WITHIN_S
    status, out, errors = _run(command, within_s)
    if status == 0:
        return Outcome.decode(out.splitlines()[-1])
    why = f"not finished after {within_s:.0f} s" if status is None else f"exit status {status}"
    return Outcome(name=row.name, database=database, complaints=(f"{why}:\n{errors[-3000:]}",))


def _run(command: list[str], within_s: float) -> tuple[int | None, str, str]:
    """Returns the exit status (None: it took too long), stdout and stderr."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                out, errors = process.communicate(timeout=END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, errors = process.communicate()
            return None, out, errors
        return process.returncode, out, errors


def _namespace() -> list[str] | None:
    """Returns the start of a command line that gives it its own mounts; None: not permitted."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    wrapper = ["unshare", "--mount", *user]
    if shutil.which("unshare") is None:
        return None
    probe = [*wrapper, "mount", "-t", "tmpfs", "probe", "/mnt"]
    done = subprocess.run(probe, capture_output=True, check=False)
    return wrapper if done.returncode == 0 else None
