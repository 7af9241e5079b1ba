"""Describes the machine for a benchmark's first line, and chooses the device to compute on."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> str:
    import torch

    cpu = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cpu}, {cores} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}"
    )
