"""The cores that a process may use: its affinity, its cgroups' quotas, and its share per GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.cores import default_loaders, usable_cores

V2 = "30 25 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 25 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture(autouse=True)
def ninety_six_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def make_root(root: Path, group: str, mount: str, **files: str) -> Path:
    """Makes a file system with these files."""
    contents = {"proc/self/cgroup": group + "\n", "proc/self/mountinfo": mount, **files}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 96
    files = {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}
    assert usable_cores(make_root(tmp_path, "0::/a", V2.format(root="/"), **files)) == 96


@pytest.mark.parametrize(
    ("own", "outer", "cores"),
    [
        ("200000 100000", "max 100000", 2),
        ("max 100000", "400000 100000", 4),
        ("800000 100000", "400000 100000", 4),
        ("150000 100000", "max 100000", 2),
        ("10000 100000", "max 100000", 1),
        ("20000000 100000", "max 100000", 96),
    ],
)
def test_the_smallest_quota_of_a_process_and_its_parents_counts(
    tmp_path: Path, own: str, outer: str, cores: int
) -> None:
    files = {"sys/fs/cgroup/a/b/c/cpu.max": own, "sys/fs/cgroup/a/cpu.max": outer}
    assert usable_cores(make_root(tmp_path, "0::/a/b/c", V2.format(root="/"), **files)) == cores


def test_a_container_without_a_cgroup_namespace_finds_its_quota(tmp_path: Path) -> None:
    """Its mount begins at its own cgroup, but the cgroup's name is the one on the whole machine."""
    root = make_root(
        tmp_path,
        "4:cpu,cpuacct:/docker/abc",
        V1.format(root="/docker/abc"),
        **{
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert usable_cores(root) == 3


def test_nested_quotas_of_cgroup_version_1_count_and_minus_1_means_no_quota(tmp_path: Path) -> None:
    root = make_root(
        tmp_path,
        "9:memory:/x\n4:cpu,cpuacct:/a/b\n0::/x",
        V1.format(root="/") + V2.format(root="/").replace("cgroup rw", "unified rw"),
        **{
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "500000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        },
    )
    assert usable_cores(root) == 5


def make_gpus(root: Path, number: int) -> Path:
    (root / "dev").mkdir(exist_ok=True)
    for name in ["nvidiactl", "nvidia-uvm", *(f"nvidia{n}" for n in range(number))]:
        (root / "dev" / name).touch()
    return root


def test_the_cores_are_divided_among_the_gpus(tmp_path: Path, monkeypatch) -> None:
    make_gpus(tmp_path, 8)
    assert default_loaders("auto", tmp_path) == 12
    assert default_loaders("cuda:3", tmp_path) == 12
    assert default_loaders("cpu", tmp_path) == 96
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # as each of the eight workers may set it
    assert default_loaders("auto", tmp_path) == 12
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_loaders("auto", tmp_path) == 96


def test_gpus_without_device_files_are_counted_by_what_cuda_is_shown(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert default_loaders("auto", tmp_path) == 48


def test_there_is_at_least_one_loader_and_never_more_than_the_setting_allows(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert default_loaders("auto", make_gpus(tmp_path, 8)) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(512)))
    assert default_loaders("cpu", tmp_path) == 256
