"""Finds the cgroups of this process, versions 1 and 2, whose files hold its limits.

`contract.cores` reads their CPU quotas, and `worker.pool.limits` how many processes and threads
they permit. See https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Mount(NamedTuple):
    """Where a hierarchy of cgroups is mounted."""

    root: Path
    """The cgroup at the top of the mount; `/` except in some containers."""
    point: Path
    controllers: frozenset[str]
    """One for version 1; empty for version 2."""


def folders_of(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of this process's cgroups and of all their parents.

    Args:
        controller: such as `cpu` or `pids`.
        root: root of the file system.
    """
    mounts = list(_mounts(controller, root))
    for controllers, group in _groups(controller, root):
        for mount in mounts:
            if mount.controllers == controllers:
                for folder in _folders(mount, group):
                    yield root / folder.relative_to("/")


def words_of(path: Path) -> list[str]:
    """The words in one of their files; none if the file does not exist."""
    return " ".join(_lines(path)).split()


def _groups(controller: str, root: Path) -> Iterator[tuple[frozenset[str], Path]]:
    """This process's cgroups for the controller: controllers (empty: version 2) and name."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            yield frozenset(controllers.split(",")) & {controller}, Path(group)


def _mounts(controller: str, root: Path) -> Iterator[_Mount]:
    """Mounts of cgroups, from /proc/self/mountinfo; proc(5) describes its format."""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, described = line.partition(" - ")
        kind, _, options = described.split(" ", 2)
        fields = mount.split(" ")
        top, point = Path(fields[3]), Path(fields[4])
        if kind == "cgroup2":
            yield _Mount(top, point, frozenset())
        elif kind == "cgroup" and controller in options.split(" ")[-1].split(","):
            yield _Mount(top, point, frozenset({controller}))


def _folders(mount: _Mount, group: Path) -> Iterator[Path]:
    """The folders of a cgroup and of its parents, up to the top of the mount."""
    inner = group.relative_to(mount.root) if group.is_relative_to(mount.root) else Path()
    folder = mount.point / inner
    yield folder
    for parent in folder.parents:
        if not parent.is_relative_to(mount.point):
            return
        yield parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
