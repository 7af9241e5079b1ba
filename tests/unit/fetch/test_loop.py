"""A loader's event loop: what it calls, when, and how often."""

from __future__ import annotations

import os
import select
import threading
import time

from worker.loader.fetch.helpers import Helpers
from worker.loader.fetch.loop import Loop, Waiter

FOR_EVER_S = 3600.0


def test_a_call_from_another_thread_wakes_the_loop() -> None:
    loop, called = Loop(), list[int]()
    threading.Thread(target=lambda: loop.call(lambda: called.append(1))).start()
    loop.turn()
    while not called:
        loop.turn()
    assert called == [1]


def test_timers_fire_in_the_order_of_their_times() -> None:
    loop, rung = Loop(), list[str]()
    now = time.monotonic()
    loop.later(now + 0.02, lambda: rung.append("last"))
    loop.later(now - 1, lambda: rung.append("first"))
    loop.set_alarm((now, lambda: rung.append("alarm")))
    while len(rung) < 3:
        loop.turn()
    assert rung == ["first", "alarm", "last"]


def test_an_alarm_can_be_moved_and_cancelled() -> None:
    loop, rung = Loop(), list[str]()
    now = time.monotonic()
    loop.set_alarm((now, lambda: rung.append("early")))
    loop.set_alarm((now, lambda: rung.append("moved")))
    loop.turn()
    loop.set_alarm((now, lambda: rung.append("taken back")))
    loop.set_alarm(None)
    loop.later(now, lambda: rung.append("timer"))
    loop.turn()
    assert rung == ["moved", "timer"]


def test_a_descriptor_is_watched_until_it_is_unwatched() -> None:
    loop, seen = Loop(), list[int]()
    reads, writes = os.pipe()
    loop.watch(reads, select.EPOLLIN, seen.append)
    os.write(writes, b"a")
    loop.turn()
    assert seen == [select.EPOLLIN]
    os.close(reads)
    loop.unwatch(reads)
    loop.unwatch(reads)
    os.close(writes)


def test_a_waiter_calls_back_once() -> None:
    loop, came = Loop(), list[object]()
    answered = Waiter(loop, time.monotonic(), came.append)
    answered.answer("answer")
    answered.answer("another")
    late = Waiter(loop, time.monotonic(), came.append)
    loop.turn()
    late.answer("too late")
    assert came[0] == "answer"
    assert [type(one) for one in came] == [str, TimeoutError]
    assert not answered.waiting
    assert not late.waiting


def test_the_result_or_error_of_a_helper_arrives_in_the_loop() -> None:
    loop = Loop()
    helpers = Helpers(loop, fetches=1)
    came: list[tuple[object, str]] = []

    def note(one: object) -> None:
        came.append((one, threading.current_thread().name))

    panic = BaseException("panic")

    def fail() -> None:
        raise panic

    for work in (lambda: "body", fail):
        helpers.run(work, time.monotonic() + FOR_EVER_S, note)
    while len(came) < 2:
        loop.turn()
    here = threading.current_thread().name
    assert sorted(came, key=str) == sorted([("body", here), (panic, here)], key=str)


def test_work_that_waits_behind_hanging_work_times_out_and_never_starts() -> None:
    loop, go_on, came, begun = Loop(), threading.Event(), list[object](), list[int]()
    helpers = Helpers(loop, fetches=1)
    for _ in range(2):
        helpers.submit(go_on.wait)
    helpers.run(lambda: begun.append(1), time.monotonic(), came.append)
    while not came:
        loop.turn()
    assert isinstance(came[0], TimeoutError)
    go_on.set()
    helpers.run(lambda: "next", time.monotonic() + FOR_EVER_S, came.append)
    while len(came) < 2:
        loop.turn()
    assert came[1] == "next"
    assert begun == []
