"""A double of NVIDIA's driver library, compiled for the tests that ask it what GPUs there are."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")


def build_nvml(folder: Path) -> Path:
    """The library, in a folder of its own; what it says is in the variable NVML_DOUBLE."""
    library = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library
