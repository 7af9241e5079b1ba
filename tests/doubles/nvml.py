"""A double of NVIDIA's driver library, compiled for tests that ask it which GPUs exist."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")


def build_nvml(folder: Path) -> Path:
    """Builds the library in its own folder. The variable NVML_DOUBLE holds its answers."""
    library = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library
