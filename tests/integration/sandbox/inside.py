"""Runs a test's program inside a loader's sandbox."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.wait import WITHIN_S
from worker.loader.sandbox.spawn import command, write_permitted


def inside(tmp_path: Path, program: str, *permitted: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in the sandbox, from a folder that it may read."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "program.py").write_text(program)
    descriptor = write_permitted(permitted)
    try:
        return subprocess.run(
            command("program", permitted=descriptor),
            pass_fds=[descriptor],
            env=os.environ | {"PYTHONPATH": str(library)},
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
    finally:
        os.close(descriptor)
