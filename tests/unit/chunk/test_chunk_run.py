"""A run of a chunk: when its waiters wake, and that every image has exactly one outcome."""

import threading
import time
from queue import SimpleQueue

import pytest

from contract.broker.message import ChunkMessage
from contract.failure import Failure
from worker.chunk.claim import Claim, Image
from worker.chunk.outcome import Outcome, Prediction, Provenance
from worker.chunk.run import ChunkRun, ClassifierFault

FOR_EVER_S = 3600.0
CAT = Outcome(Prediction((3,), (1.0,)), Provenance())
GONE = Outcome(Failure("http_404"), Provenance())


class Waits(threading.Condition):
    """Reports each time a thread begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: SimpleQueue[None] = SimpleQueue()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.put(None)
        return super().wait(timeout)


@pytest.fixture
def run() -> ChunkRun:
    """Three images, at positions 10 to 12."""
    uris = ("u:0", "u:1", "u:2")
    message = ChunkMessage(
        job="j", job_number=1, chunk=2, generation=1, positions=(10, 11, 12), uris=uris
    )
    images = {10 + n: Image(uri, None) for n, uri in enumerate(uris)}
    run = ChunkRun(Claim(message=message, attempt=1, first_position=10, images=images))
    run._changed = Waits()
    return run


class Waiter:
    """A task's thread that waits for a run. The constructor returns once it waits."""

    def __init__(self, run: ChunkRun, patience_s: float) -> None:
        self.woke = threading.Event()
        self.thread = threading.Thread(target=self._wait, args=(run, patience_s), daemon=True)
        self.thread.start()
        assert isinstance(run._changed, Waits)
        run._changed.begun.get(timeout=10)

    def _wait(self, run: ChunkRun, patience_s: float) -> None:
        run.wait_until_settled(patience_s)
        self.woke.set()

    def wakes(self) -> bool:
        self.thread.join(10)
        return self.woke.is_set()


def load_all(run: ChunkRun) -> None:
    for position in (10, 11, 12):
        run.begin_loading([position])


def test_the_wait_ends_when_every_image_is_settled(run: ChunkRun) -> None:
    load_all(run)
    waiter = Waiter(run, FOR_EVER_S)
    run.settle({10: GONE})
    run.begin_classifying([11])
    run.settle({11: CAT})
    assert not waiter.woke.is_set()
    run.settle({12: GONE})
    assert waiter.wakes()
    assert run.snapshot().outcomes == {10: GONE, 11: CAT, 12: GONE}
    assert run.snapshot().unsettled == set()


def test_the_wait_ends_when_the_remaining_images_have_used_up_the_patience(run: ChunkRun) -> None:
    load_all(run)
    run.settle({10: GONE})
    run.wait_until_settled(0.05)
    snapshot = run.snapshot()
    assert (set(snapshot.outcomes), snapshot.unsettled) == ({10}, {11, 12})
    assert not snapshot.closed


def test_the_wait_for_the_classifier_has_no_limit(run: ChunkRun) -> None:
    load_all(run)
    run.begin_classifying([10])
    waiter = Waiter(run, 0.0)
    run.settle({10: CAT})
    assert waiter.wakes()
    assert run.snapshot().unsettled == {11, 12}


def test_a_run_that_drains_waits_only_for_the_classifier(run: ChunkRun) -> None:
    run.begin_loading([10])
    run.begin_classifying([11])
    waiter = Waiter(run, FOR_EVER_S)
    run.drain()
    another = Waiter(run, FOR_EVER_S)  # a thread that comes now waits as well
    run.settle({11: CAT})
    assert waiter.wakes()
    assert another.wakes()
    snapshot = run.snapshot()
    assert (snapshot.outcomes, snapshot.unsettled) == ({11: CAT}, {10, 12})
    assert snapshot.closed


def test_outcomes_after_the_hand_back_are_ignored(run: ChunkRun) -> None:
    load_all(run)
    run.drain()
    assert run.snapshot().closed
    run.settle({10: CAT})
    assert not run.begin_classifying([11])
    assert run.snapshot().outcomes == {}
    assert run.snapshot().unsettled == {10, 11, 12}


def test_an_image_keeps_its_first_outcome(run: ChunkRun) -> None:
    run.settle({10: GONE})
    run.settle({10: CAT})
    run.begin_loading([10])
    assert run.snapshot().outcomes == {10: GONE}
    run.forget([10])
    run.settle({10: CAT})
    assert run.snapshot().outcomes == {}


def test_an_outcome_that_arrives_before_the_image_is_noted_as_loading_counts(run: ChunkRun) -> None:
    for position in (10, 11, 12):
        run.settle({position: GONE})
        run.begin_loading([position])
    run.wait_until_settled(FOR_EVER_S)
    assert run.snapshot().unsettled == set()


def test_the_keeper_is_called_once_when_every_image_is_settled(run: ChunkRun) -> None:
    called: list[ChunkRun] = []
    load_all(run)
    run.when_ready(called.append)
    run.settle({10: GONE})
    run.begin_classifying([11])
    run.settle({12: GONE})
    assert called == []
    run.settle({11: CAT})
    run.drain()
    assert called == [run]


def test_the_keeper_is_called_when_the_run_drains(run: ChunkRun) -> None:
    called: list[ChunkRun] = []
    load_all(run)
    run.begin_classifying([11])
    run.when_ready(called.append)
    run.drain()
    assert called == []
    run.settle({11: CAT})
    assert called == [run]


def test_the_keeper_is_called_at_once_if_the_run_is_ready(run: ChunkRun) -> None:
    called: list[ChunkRun] = []
    run.drain()
    run.when_ready(called.append)
    assert called == [run]


def test_after_a_classifier_fault_the_wait_ends_and_the_run_keeps_its_outcomes(
    run: ChunkRun,
) -> None:
    run.settle({10: GONE})
    run.begin_classifying([11])
    waiter = Waiter(run, FOR_EVER_S)
    run.fail(ClassifierFault("device fell off"))
    assert waiter.wakes()
    assert not run.begin_classifying([12]), "its loader has the slot back at once"
    run.settle({11: CAT})
    snapshot = run.snapshot()
    assert snapshot.outcomes == {10: GONE}
    assert {11, 12} <= snapshot.unsettled
    assert snapshot.closed
    assert str(snapshot.fault) == "device fell off"


@pytest.mark.parametrize("order", [("keep", "fail"), ("fail", "keep")])
def test_the_keeper_is_called_when_the_classifier_fails(run: ChunkRun, order) -> None:
    called: list[ChunkRun] = []
    load_all(run)
    run.begin_classifying([10])
    steps = {
        "keep": lambda: run.when_ready(called.append),
        "fail": lambda: run.fail(ClassifierFault("device fell off")),
    }
    for step in order:
        steps[step]()
    assert called == [run]


def test_a_deferred_image_is_not_waited_for_but_handed_back(run: ChunkRun) -> None:
    run.begin_loading([10])
    run.settle({10: GONE})
    run.defer({11, 12})
    run.wait_until_settled(FOR_EVER_S)
    snapshot = run.snapshot()
    assert (snapshot.outcomes, snapshot.unsettled, snapshot.deferred) == (
        {10: GONE},
        {11, 12},
        {11, 12},
    )
    assert snapshot.closed


def test_deferred_images_are_handed_back_when_the_others_are_settled(run: ChunkRun) -> None:
    called: list[ChunkRun] = []
    run.begin_loading([10])
    run.defer({11, 12})
    run.wait_until_settled(0.0)
    assert (run.snapshot().unsettled, run.snapshot().closed) == ({10, 11, 12}, False)
    run.when_ready(called.append)
    run.settle({10: GONE})
    assert called == [run]
    assert (run.snapshot().unsettled, run.snapshot().closed) == ({11, 12}, True)


def test_patience_starts_when_an_image_is_first_refused(run: ChunkRun) -> None:
    long_ago = time.monotonic() - FOR_EVER_S
    for position in (10, 11, 12):
        run.begin_loading([position], long_ago)
    run.wait_until_settled(FOR_EVER_S)
    assert run.snapshot().unsettled == {10, 11, 12}


def test_when_patience_is_over_the_wait_goes_on_only_for_the_classifier(run: ChunkRun) -> None:
    run.begin_loading([10, 11, 12], time.monotonic() - FOR_EVER_S)
    run.begin_classifying([10, 11])
    waiter = Waiter(run, FOR_EVER_S)
    run.settle({10: CAT})
    another = Waiter(run, FOR_EVER_S)  # a thread that comes now waits as well
    run.settle({11: CAT})
    assert waiter.wakes()
    assert another.wakes()
    assert run.snapshot().unsettled == {12}
