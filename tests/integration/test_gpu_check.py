"""The GPU check as a command, on a machine without a GPU and without a worker's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHIN_S = 800
# Every Python process imports this as sitecustomize, including those of the steps.
NOT_INSTALLED = """
import sys

MISSING = {
    "alembic", "celery", "kombu", "limits", "prometheus_client", "psycopg", "pycurl", "pydantic",
    "pydantic_settings", "redis", "sqlalchemy", "typer",
}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


@pytest.mark.timeout(900)
def test_steps_without_a_gpu_pass_and_the_others_are_skipped(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED)
    steps = ["environment", "lanes", "faults", "layers", "profile", "speed", "nvjpeg", "compile",
             "rival", "path"]  # fmt: skip
    options = ["--out", str(tmp_path), "--deadline", str(WITHIN_S)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *options, "--steps", *steps],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    words = [line.replace(",", "").split()[:2] for line in lines[: len(steps)]]
    assert words == [
        ["PASS" if name in {"environment", "lanes", "faults"} else "SKIP", name] for name in steps
    ]
    assert done.stdout.count("no GPU") >= 7
