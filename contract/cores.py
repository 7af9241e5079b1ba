"""How many CPU cores this process may use, and how many loaders a worker gets by default.

`contract.settings` imports this module, so it loads neither torch nor another large package. The
CPU affinity limits the cores, and so do the quotas of the process's cgroups and their parents: see
https://docs.kernel.org/scheduler/sched-bwc.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final

from contract.cgroups import folders_of, words_of

MOST_LOADERS: Final = 256
_GPU: Final = re.compile(r"nvidia\d+")
# Values of CUDA_VISIBLE_DEVICES that hide all GPUs.
_NO_GPU: Final = frozenset({"", "-1", "NoDevFiles"})


def default_loaders(device: str, root: Path = Path("/")) -> int:
    """One loader per usable core, divided by the number of GPUs, because each GPU has its own
    worker. At least 1.

    Args:
        device: the setting. With `cpu` the worker gets all cores.
        root: root of the file system.
    """
    workers = 1 if device == "cpu" else max(1, _gpus(root))
    return min(MOST_LOADERS, max(1, usable_cores(root) // workers))


def usable_cores(root: Path = Path("/")) -> int:
    """The smaller of the CPU affinity and the cgroups' CPU quota, rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    return min([affinity, *(max(1, ceil(cores)) for cores in _quotas(root))])


def _gpus(root: Path) -> int:
    """The number of NVIDIA GPUs by their device files, otherwise by CUDA_VISIBLE_DEVICES."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and shown.strip() in _NO_GPU:
        return 0
    with suppress(OSError):
        files = sum(1 for path in (root / "dev").iterdir() if _GPU.fullmatch(path.name))
        if files:
            return files
    return len(shown.split(",")) if shown else 0


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's cgroups and of all their parents."""
    for folder in folders_of("cpu", root):
        quota = _quota(folder)
        if quota is not None:
            yield quota


def _quota(folder: Path) -> float | None:
    """The quota of one cgroup, in cores; None if it has none."""
    words = words_of(folder / "cpu.max")  # version 2: `max 100000` or `150000 100000`
    if not words:
        words = words_of(folder / "cpu.cfs_quota_us") + words_of(folder / "cpu.cfs_period_us")
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None
