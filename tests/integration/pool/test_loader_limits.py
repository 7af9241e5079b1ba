"""Pools on a system that permits fewer processes than they want."""

from __future__ import annotations

import errno
import itertools
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from contract.errors import UnavailableError
from contract.settings import Settings
from tests.integration.dispatching import until
from tests.pictures.demo import GOOD
from tests.pools import Pool


@contextmanager
def running(**settings: Any) -> Iterator[Pool]:
    pool = Pool(Settings(file_roots=(GOOD.parent,), **settings))
    pool.inner.start()
    try:
        yield pool
    finally:
        pool.inner.close()


def fail_from(monkeypatch, first: int) -> None:
    """Let the start of process number `first` and of all later ones fail."""
    start, number = subprocess.Popen, itertools.count()

    def start_or_fail(*arguments: Any, **options: Any) -> Any:
        if next(number) >= first:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start_or_fail)


def test_if_fewer_processes_are_permitted_a_pool_has_fewer_loaders(monkeypatch, caplog) -> None:
    fail_from(monkeypatch, 2)
    with running(loaders=4) as pool:
        assert len(pool.inner.processes) == 2
        pool.load(*[GOOD] * 9)
        assert pool.answers(9) == [(GOOD.name, None)] * 9
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "Only 2 of 4 loaders can be started" in told[0]


def test_if_no_process_is_permitted_the_error_says_so(monkeypatch) -> None:
    fail_from(monkeypatch, 0)
    pool = Pool(Settings(loaders=2))
    with pytest.raises(UnavailableError, match=r"No loader can be started.*RESNEXT_LOADERS"):
        pool.inner.start()
    pool.inner.close()


def test_images_of_a_loader_without_a_replacement_go_to_others(
    monkeypatch,
) -> None:
    with running(loaders=2, fetches_per_loader=4) as pool:
        until(lambda: all(process.ready for process in pool.inner.processes))
        process = pool.inner.processes[0]
        process.child.send_signal(signal.SIGSTOP)
        pool.load(*[GOOD] * 6)
        fail_from(monkeypatch, 0)
        process.child.kill()
        assert pool.answers(6) == [(GOOD.name, None)] * 6
