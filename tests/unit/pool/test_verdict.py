"""After the death of a loader: which image fails, and which ones are loaded again, and how."""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from contract.failure import Failure
from worker.pool.quarantine import Quarantine
from worker.pool.request import LoadRequest
from worker.pool.slots import Note
from worker.pool.verdict import (
    CAUSES,
    MOST_DEATHS_OF_OTHERS,
    MOST_UNEXPLAINED_DEATHS,
    Deadlines,
    Verdict,
    cause_of,
    judge,
)

DEADLINES = Deadlines(decode_s=1.0, silence_s=3.0)


def request(uri: str, *, kills: int = 0, unexplained_deaths: int = 0) -> LoadRequest:
    return LoadRequest(uri, uri, None, None, lambda _: None, kills, unexplained_deaths)


def judge_death(
    *requests: LoadRequest, note: Note | None = None, status: int = -signal.SIGKILL, **state: Any
) -> Verdict:
    """Judges a loader that had these requests in flight, beginning with slot 0."""
    usual = {
        "ready": True,
        "mute": False,
        "overdue": None,
        "stalled": None,
        "quarantine": None,
        "answered": 0,
    }
    dead = SimpleNamespace(
        requests=dict(enumerate(requests)),
        slots=SimpleNamespace(noted=lambda: note),
        child=SimpleNamespace(returncode=status),
        **usual | state,
    )
    return judge(dead, DEADLINES)  # type: ignore[arg-type]


def uris(requests: Any) -> list[str]:
    return [request.uri for request in requests]


def test_a_crash_fails_the_noted_image_and_does_not_count_for_others() -> None:
    verdict = judge_death(request("a"), request("b"), note=Note(1, slot=1), status=-signal.SIGSEGV)
    assert verdict.failure == Failure("crashed", "the decoder crashed")
    assert uris(verdict.failed) == ["b"]
    assert [(r.uri, r.unexplained_deaths) for r in verdict.again] == [("a", 0)]


def test_a_death_without_a_note_counts_for_each_image_in_flight() -> None:
    verdict = judge_death(request("a"), request("b", unexplained_deaths=1))
    assert [(r.uri, r.unexplained_deaths) for r in verdict.again] == [("a", 1), ("b", 2)]
    assert (verdict.failure, verdict.quarantine) == (None, None)


def test_a_note_that_names_no_image_in_flight_is_ignored() -> None:
    verdict = judge_death(request("a"), note=Note(1, slot=7))
    assert [r.unexplained_deaths for r in verdict.again] == [1]


def test_the_death_of_a_loader_that_was_never_ready_counts_for_no_image() -> None:
    quarantine = Quarantine(deque([request("b")]), 1)
    verdict = judge_death(request("a"), ready=False, status=-signal.SIGSEGV, quarantine=quarantine)
    assert verdict.failure is None
    assert verdict.quarantine is not None
    assert [(r.uri, r.unexplained_deaths) for r in verdict.quarantine.waiting] == [
        ("a", 0),
        ("b", 0),
    ]


def test_after_the_last_unexplained_death_half_of_the_suspects_are_tried_at_once() -> None:
    count = MOST_UNEXPLAINED_DEATHS - 1
    suspects = [request(str(n), unexplained_deaths=count) for n in range(9)]
    quarantine = judge_death(*suspects).quarantine
    assert quarantine is not None
    assert uris(quarantine.waiting) == [str(n) for n in range(9)]
    assert quarantine.in_flight_limit(answered=0) == 4
    assert quarantine.in_flight_limit(answered=3) == 7


def test_an_image_fails_only_if_it_was_alone_in_a_fresh_loader() -> None:
    quarantine = Quarantine(deque([request("b")]), 1)
    for state in ({"answered": 1}, {"quarantine": None}):
        given = {"quarantine": quarantine, "status": -signal.SIGSEGV} | state
        assert judge_death(request("a"), **given).failure is None, state
    verdict = judge_death(request("a"), quarantine=quarantine, status=-signal.SIGSEGV)
    assert verdict.failure == Failure("crashed", "the loader crashed")
    assert uris(verdict.failed) == ["a"]
    assert verdict.quarantine is not None
    assert uris(verdict.quarantine.waiting) == ["b"]


def test_an_image_alone_in_a_killed_loader_gets_one_more_try() -> None:
    quarantine = Quarantine(deque([request("b")]), 1)
    verdict = judge_death(request("a"), quarantine=quarantine)
    assert verdict.failure is None
    assert verdict.quarantine is not None
    again = verdict.quarantine.waiting[0]
    verdict = judge_death(again, quarantine=quarantine)
    assert verdict.failure is not None
    assert verdict.failure.code == "crashed"


def test_a_mute_loader_fails_its_images_but_not_those_that_wait() -> None:
    quarantine = Quarantine(deque([request("b")]), 1)
    verdict = judge_death(request("a"), mute=True, quarantine=quarantine)
    assert verdict.failure == Failure("timeout", "no answer from its loader for 3 s")
    assert uris(verdict.failed) == ["a"]
    assert verdict.quarantine is not None
    assert uris(verdict.quarantine.waiting) == ["b"]


def test_an_image_that_blames_others_for_every_death_is_found() -> None:
    """It has taken over its loader. It writes another image's slot into the note, then crashes."""
    verdict, blamed = Verdict([request("hostile")]), list[str]()
    for n in range(200):
        quarantine, in_flight = verdict.quarantine, verdict.again
        if quarantine is not None:
            limit = quarantine.in_flight_limit(answered=0)
            in_flight = [quarantine.waiting.popleft() for _ in range(limit) if quarantine.waiting]
        else:
            in_flight = [*in_flight, *(request(f"{n}-{m}") for m in range(63))][:64]
        other = next((i for i, r in enumerate(in_flight) if r.uri != "hostile"), 64)
        verdict = judge_death(
            *in_flight, note=Note(n, other), status=-signal.SIGSEGV, quarantine=quarantine
        )
        blamed += uris(verdict.failed)
        if "hostile" in blamed:
            break
    assert blamed[-1] == "hostile"
    assert len(blamed) <= MOST_DEATHS_OF_OTHERS + 8


def test_a_few_deaths_blamed_on_others_put_no_image_into_quarantine() -> None:
    count = MOST_DEATHS_OF_OTHERS - 2
    dead = [request("a"), replace(request("b"), deaths_of_others=count)]
    crash = {"note": Note(1, slot=0), "status": -signal.SIGSEGV}
    assert judge_death(*dead, **crash).quarantine is None
    dead[1].deaths_of_others += 1
    quarantine = judge_death(*dead, **crash).quarantine
    assert quarantine is not None
    assert uris(quarantine.waiting) == ["b"]


def test_the_error_of_a_slow_decode_depends_on_the_processor_time_it_had() -> None:
    note = Note(1, slot=1)
    verdict = judge_death(request("a"), request("b"), note=note, overdue=note)
    assert verdict.failure == Failure("decode_timeout", "more than 1 s of processor time")
    assert uris(verdict.failed) == ["b"]
    verdict = judge_death(request("a"), request("b"), note=note, stalled=note)
    words = "not decoded within 5 s: its loader got less than 1 s of processor time for it"
    assert verdict.failure == Failure("timeout", words)
    assert verdict.failure.retried
    assert uris(verdict.failed) == ["b"]


def test_a_note_that_has_changed_since_then_fails_no_image() -> None:
    for state in ({"overdue": Note(1, slot=1)}, {"stalled": Note(1, slot=1)}):
        verdict = judge_death(request("a"), request("b"), note=Note(2, slot=1), **state)
        assert verdict.failure is None, state


@pytest.mark.parametrize(
    ("cause", "status", "state"),
    [
        ("crashed", -signal.SIGSEGV, {}),
        ("killed", -signal.SIGKILL, {}),
        ("ended", 1, {}),
        ("decode_timeout", -signal.SIGKILL, {"overdue": Note(1, slot=0)}),
        ("timeout", -signal.SIGKILL, {"stalled": Note(1, slot=0)}),
        ("mute", -signal.SIGKILL, {"mute": True}),
        ("distrusted", -signal.SIGKILL, {"distrusted": True, "mute": True}),
    ],
)
def test_the_cause_of_death_is_the_reason_for_the_kill(cause, status, state) -> None:
    sound: dict[str, Any] = {"distrusted": False, "mute": False, "overdue": None, "stalled": None}
    dead = SimpleNamespace(child=SimpleNamespace(returncode=status), **sound | state)
    assert cause_of(dead) == cause  # type: ignore[arg-type]
    assert cause in CAUSES
