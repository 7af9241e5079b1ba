"""Runs img2dataset like its users do, on a list of URIs and without output.

It needs old versions of libraries and installs a stand-in for a module of the standard library. So
it gets its own environment, which is deleted at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.rig.child import ROOT
from benchmarks.rig.figures import tell

UV = Path(sys.executable).with_name("uv")
LOCK = ROOT / "requirements" / "img2dataset.txt"


def install_img2dataset(scratch: Path) -> Path:
    """Installs it into a new environment; gives the path of its command."""
    tell("installing img2dataset")
    folder = scratch / "img2dataset"
    python = folder / "bin" / "python"
    for command in (
        ["venv", "--python", sys.executable, folder],
        ["pip", "install", "--python", python, "--require-hashes", "-r", LOCK],
    ):
        subprocess.run([UV, *command, "--quiet"], check=True)
    return folder / "bin" / "img2dataset"


def make_run(img2dataset: Path, scratch: Path, uris: list[str], threads: int) -> Callable[[], None]:
    """Makes a run with one shard per process, so that no process waits for another shard."""
    processes = len(os.sched_getaffinity(0))
    options = {
        "url_list": scratch / "urls.txt",
        "output_folder": tempfile.mkdtemp(dir=scratch),
        "output_format": "dummy",
        "image_size": 224,
        "resize_mode": "center_crop",
        "processes_count": processes,
        "thread_count": threads,
        "number_sample_per_shard": -(-len(uris) // processes),
        "extract_exif": False,
        "enable_wandb": False,
    }

    def run() -> None:
        (scratch / "urls.txt").write_text("\n".join(uris))
        with (scratch / "img2dataset.log").open("wb") as log:
            subprocess.run(
                [img2dataset, *(f"--{name}={value}" for name, value in options.items())],
                env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
                stdout=log,
                stderr=log,
                check=True,
            )

    return run
