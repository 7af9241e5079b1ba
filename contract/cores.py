"""How many CPU cores this process may use, and how many loaders a worker gets by default.

`contract.settings` asks here, so this loads neither torch nor anything else that is large. The
affinity and the quotas of all cgroups around this process limit it, versions 1 and 2: see
https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/scheduler/sched-bwc.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

MOST_LOADERS: Final = 256
_GPU: Final = re.compile(r"nvidia\d+")
# Values of CUDA_VISIBLE_DEVICES that hide all GPUs.
_NO_GPU: Final = frozenset({"", "-1", "NoDevFiles"})


class _Mount(NamedTuple):
    """Where a hierarchy of cgroups is mounted."""

    root: Path
    """The cgroup that the mount shows as its top; `/` but for some containers."""
    point: Path
    controllers: frozenset[str]
    """`cpu` for version 1; empty for version 2."""


def default_loaders(device: str, root: Path = Path("/")) -> int:
    """One loader for each usable core, divided among the GPUs of this machine: each has a worker
    of its own. At least 1.

    Args:
        device: the setting; `cpu` shares the cores with no other worker.
        root: of the file system.
    """
    workers = 1 if device == "cpu" else max(1, _gpus(root))
    return min(MOST_LOADERS, max(1, usable_cores(root) // workers))


def usable_cores(root: Path = Path("/")) -> int:
    """The smaller of the CPU affinity and the cgroups' CPU quota, rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    return min([affinity, *(max(1, ceil(cores)) for cores in _quotas(root))])


def _gpus(root: Path) -> int:
    """NVIDIA's GPUs that this machine or container has, or that CUDA is shown without files."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and shown.strip() in _NO_GPU:
        return 0
    with suppress(OSError):
        files = sum(1 for path in (root / "dev").iterdir() if _GPU.fullmatch(path.name))
        if files:
            return files
    return len(shown.split(",")) if shown else 0


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process' cgroups and of each cgroup around them."""
    mounts = list(_mounts(root))
    for controllers, group in _groups(root):
        for mount in mounts:
            if mount.controllers != controllers:
                continue
            for folder in _folders(mount, group):
                quota = _quota(root / folder.relative_to("/"))
                if quota is not None:
                    yield quota


def _groups(root: Path) -> Iterator[tuple[frozenset[str], Path]]:
    """This process' cgroups that limit its CPU: controllers (none: version 2) and name."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield frozenset(controllers.split(",")) & {"cpu"}, Path(group)


def _mounts(root: Path) -> Iterator[_Mount]:
    """Mounts of cgroups by /proc/self/mountinfo, whose format is in proc(5)."""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, described = line.partition(" - ")
        kind, _, options = described.split(" ", 2)
        fields = mount.split(" ")
        top, point = Path(fields[3]), Path(fields[4])
        if kind == "cgroup2":
            yield _Mount(top, point, frozenset())
        elif kind == "cgroup" and "cpu" in options.split(" ")[-1].split(","):
            yield _Mount(top, point, frozenset({"cpu"}))


def _folders(mount: _Mount, group: Path) -> Iterator[Path]:
    """The folders of a cgroup and of those around it, as far as the mount shows them."""
    inner = group.relative_to(mount.root) if group.is_relative_to(mount.root) else Path()
    folder = mount.point / inner
    yield folder
    for parent in folder.parents:
        if not parent.is_relative_to(mount.point):
            return
        yield parent


def _quota(folder: Path) -> float | None:
    """In cores; None if there is none."""
    words = _words(folder / "cpu.max")  # version 2: `max 100000` or `150000 100000`
    if not words:
        words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
