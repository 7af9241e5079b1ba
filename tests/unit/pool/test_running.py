"""Requests are dealt to the running loaders by their free slots, many at once."""

from __future__ import annotations

from typing import Any

import pytest

from worker.pool.process import LoaderProcess
from worker.pool.request import LoadRequest
from worker.pool.running import RunningLoaders


def loader(free: int) -> LoaderProcess:
    nothing: Any = None
    slots = list(reversed(range(free)))
    return LoaderProcess(nothing, nothing, nothing, free=slots, log=nothing, most_threads=1)


def requests(number: int) -> list[LoadRequest]:
    return [LoadRequest(n, f"http://a.org/{n}", None, "a.org", print) for n in range(number)]


def running(*loaders: LoaderProcess) -> RunningLoaders:
    them = RunningLoaders(len(loaders))
    for n, one in enumerate(loaders):
        them.put(n, one)
    return them


@pytest.mark.parametrize(
    ("free", "number", "left"),
    [
        pytest.param((8, 8), 6, [5, 5], id="equal parts"),
        pytest.param((8, 2), 4, [4, 2], id="the loader with more free slots gets all"),
        pytest.param((8, 2), 8, [1, 1], id="until both have the same"),
        pytest.param((8, 2, 5), 15, [0, 0, 0], id="all slots"),
        pytest.param((3, 3), 5, [0, 1], id="an odd number"),
        pytest.param((0, 4), 1, [0, 3], id="a full loader gets none"),
        pytest.param((4, 4), 0, [4, 4], id="none"),
    ],
)
def test_the_loaders_with_the_most_free_slots_get_the_requests(free, number, left) -> None:
    loaders = [loader(slots) for slots in free]
    wanted = requests(number)
    batches = running(*loaders).deal(wanted)
    assert sorted(len(one.free) for one in loaders) == sorted(left)
    dealt = [request.key for assigned in batches.values() for _, request in assigned]
    assert sorted(dealt) == list(range(number))
    for process, assigned in batches.items():
        assert process.requests == dict(assigned)
        assert not {slot for slot, _ in assigned} & set(process.free)


def test_the_lowest_slot_is_used_first() -> None:
    """The memory of the other slots may never be needed."""
    one = loader(5)
    assert [slot for slot, _ in one.assign(requests(2))] == [0, 1]
    assert one.free == [4, 3, 2]


def test_an_empty_list_of_requests_takes_no_slot() -> None:
    """This happens when the previous loader died with nothing in flight."""
    one = loader(5)
    assert one.assign([]) == []
    assert len(one.free) == 5
