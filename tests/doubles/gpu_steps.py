"""Steps and faults for the GPU check that go wrong in every way, to test the check.

`python -m tests.doubles.gpu_steps NAME …` runs as a fault that does not end as it should.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given


def passes(given: Given, report: Report) -> None:
    report.note("left", given.left_s, "s")
    report.at_most("error", 0.001, 0.01)


def misses(_: Given, report: Report) -> None:
    report.at_most("error", 0.5, 0.01)
    report.at_least("speed", float("nan"), 1.0)
    report.note("goes on")


def aborts(_: Given, report: Report) -> None:
    report.at_most("error", 0.001, 0.01)
    os.abort()


def raises(_: Given, __: Report) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def hangs(given: Given, report: Report) -> None:
    """Hangs, with a child process that the check must end too."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    report.note("its process", other.pid)
    report.at_most("error", 0.001, 0.01)
    threading.Event().wait()


def silent(_: Given, __: Report) -> None:
    """Reports nothing."""


def elsewhere(_: Given, __: Report) -> None:
    raise NotHereError("there is no such thing here")


if __name__ == "__main__":
    match sys.argv[1]:
        case "aborts":
            os.abort()
        case "hangs":
            threading.Event().wait()
        case "skips":
            sys.stdout.write("not on this machine\n")
            sys.exit(77)
        case "ends":
            sys.stdout.write("broken: by itself\n")
            sys.exit(1)
