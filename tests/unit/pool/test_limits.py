"""Fewer loaders and fetches if the system permits fewer processes, threads or descriptors."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from contract.errors import UnavailableError
from contract.settings import Settings
from worker.pool import limits
from worker.pool.limits import (
    Limit,
    Share,
    fit_descriptors,
    fit_threads,
    fitted,
    limits_of_threads,
    naming_limits,
)

PIDS = "33 25 0:29 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n"
UNIFIED = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("most", "used"), [(300, 20), (400, 0), (1000, 10), (100, 0), (100, 90), (10_000, 9_000)]
)
def test_the_share_fits_into_what_is_free(most: int, used: int) -> None:
    wanted = Share(8, 512)
    share = fit_threads(wanted, Limit("pids.max", most, used))
    assert share.loaders >= 1
    assert share.fetches >= 1
    threads = share.loaders * limits._threads(share.fetches)
    smallest = limits._threads(min(share.fetches, limits.FEWEST_FETCHES))
    assert threads <= max(smallest, most - used - limits.RESERVED_THREADS)
    assert share != wanted


def test_fetches_are_reduced_before_loaders() -> None:
    wanted = Share(4, 512)
    assert fit_threads(wanted, Limit("pids.max", 100_000, 0)) == wanted
    assert fit_threads(wanted, Limit("pids.max", 1_000, 0)).loaders == 4
    few = fit_threads(wanted, Limit("pids.max", 110, 0))
    assert few.loaders < 4
    assert few.fetches >= limits.FEWEST_FETCHES


def test_descriptors_limit_the_fetches_of_each_loader() -> None:
    assert fit_descriptors(Share(4, 512), Limit("ulimit -n", 256, 0)) == Share(4, 96)
    assert fit_descriptors(Share(4, 512), Limit("ulimit -n", 16_384, 0)) == Share(4, 512)
    assert fit_descriptors(Share(4, 512), Limit("ulimit -n", 20, 0)) == Share(4, 1)


def make_root(root: Path, group: str, mounts: str, **files: str) -> Path:
    """Makes a file system with these files."""
    contents = {"proc/self/cgroup": group + "\n", "proc/self/mountinfo": mounts, **files}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.rstrip("\n") + "\n")
    return root


@pytest.fixture
def as_user(monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (500, 500))


@pytest.mark.parametrize(
    ("group", "mounts", "folder"),
    [
        ("0::/a/b", UNIFIED, "sys/fs/cgroup/a/b"),
        ("0::/a/b", UNIFIED, "sys/fs/cgroup/a"),
        ("8:pids:/a", PIDS, "sys/fs/cgroup/pids/a"),
    ],
)
def test_the_cgroups_of_a_worker_and_their_parents_limit_it(
    tmp_path: Path, monkeypatch, group: str, mounts: str, folder: str
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)  # root, whom `ulimit -u` does not limit
    files = {f"{folder}/pids.max": "300", f"{folder}/pids.current": "25"}
    (limit,) = limits_of_threads(make_root(tmp_path, group, mounts, **files))
    assert (limit.most, limit.used) == (300, 25)
    assert str(limit) == f"pids.max in {tmp_path / folder} is 300, of which 25 are in use"


def test_a_cgroup_without_a_limit_limits_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    files = {"sys/fs/cgroup/a/pids.max": "max", "sys/fs/cgroup/a/pids.current": "25"}
    assert list(limits_of_threads(make_root(tmp_path, "0::/a", UNIFIED, **files))) == []


def test_a_user_is_limited_by_the_threads_of_all_their_processes(tmp_path: Path, as_user) -> None:
    files = {
        "proc/1/status": "Name:\tinit\nUid:\t0\t0\t0\t0\nThreads:\t1",
        "proc/7/status": "Name:\ta\nUid:\t1234\t1234\t1234\t1234\nThreads:\t30",
        "proc/9/status": "Name:\tb\nUid:\t1234\t0\t0\t0\nThreads:\t3",
        "proc/11/status": "",  # this process is ending
    }
    (limit,) = limits_of_threads(make_root(tmp_path, "0::/", UNIFIED, **files))
    assert (limit.name, limit.most, limit.used) == ("`ulimit -u` of user 1234", 500, 33)


def test_one_warning_names_every_limit_that_applies(monkeypatch, caplog) -> None:
    pids = Limit("pids.max in /a", 300, 20)
    monkeypatch.setattr(limits, "limits_of_threads", lambda: iter([pids]))
    monkeypatch.setattr(limits, "limit_of_descriptors", lambda: Limit("`ulimit -n`", 100, 0))
    found = fitted(Settings(loaders=2, fetches_per_loader=512))
    assert (found.loaders, found.fetches_per_loader) == (2, 18)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "pids.max in /a is 300, of which 20 are in use; `ulimit -n` is 100" in record.message


def test_without_a_shortage_nothing_is_logged(monkeypatch, caplog) -> None:
    monkeypatch.setattr(limits, "limits_of_threads", lambda: iter([Limit("a", 100_000, 1)]))
    settings = Settings(loaders=2)
    assert fitted(settings) is settings
    assert caplog.records == []


def test_a_thread_that_cannot_start_becomes_an_error_with_the_limit(monkeypatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")  # as Python raises it

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(limits, "limits_of_threads", lambda: iter([Limit("pids.max", 9, 9)]))
    with pytest.raises(UnavailableError, match=r"pids\.max is 9, of which 9"):  # noqa: SIM117
        with naming_limits():
            threading.Thread().start()
    with pytest.raises(RuntimeError, match="another"), naming_limits():
        raise RuntimeError("another")
