"""Task threads if the system permits few: every task runs, and one message is logged."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from tests.wait import WITHIN_S
from worker.process.task_threads import PatientThreads, TaskThreads


@pytest.fixture
def permit(monkeypatch):
    """Sets how many more threads may be started."""
    start = threading.Thread.start

    def permit(most: int) -> None:
        number = count()

        def start_or_fail(thread: threading.Thread) -> None:
            if next(number) >= most:
                raise RuntimeError("can't start new thread")  # as Python raises it
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)

    return permit


def test_a_task_that_gets_no_thread_waits_for_a_running_one(permit, caplog) -> None:
    permit(2)
    go_on = threading.Event()
    with PatientThreads(max_workers=8) as threads:
        tasks = [threads.submit(lambda n=n: go_on.wait(WITHIN_S) and n) for n in range(6)]
        go_on.set()
        assert [task.result(WITHIN_S) for task in tasks] == list(range(6))
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "The system permits no more threads, so only 2 chunks run"
    )


def test_a_pool_has_a_thread_before_its_first_task(permit) -> None:
    pool = TaskThreads(limit=4)
    permit(0)
    task = pool.on_apply(lambda: "done", (), {}, callback=None, accept_callback=None)
    task.wait(WITHIN_S)
    pool.on_stop()


def test_a_pool_that_gets_no_thread_at_all_does_not_start(permit) -> None:
    permit(0)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        TaskThreads(limit=4)
