"""Batches are filled across chunks and sent when full or old; a fault costs one batch."""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contract.failure import Failure
from resnext.errors import DeviceBroken
from tests.doubles.classifier import CROP, GatedClassifier
from worker.batch.batch import Arrived
from worker.batch.batcher import FAULTS_TO_STOP, Batcher
from worker.chunk.outcome import STAGES, Outcome, Prediction, Provenance
from worker.chunk.run import ClassifierFault
from worker.metrics.stages import Metrics
from worker.pool.pool import Loaded

FOR_EVER_S = 3600.0


class Run:
    """Collects outcomes."""

    def __init__(self, images: int) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.told = 0
        self.fault: ClassifierFault | None = None
        self._images = images
        self.done = threading.Event()

    def settle(self, outcomes: dict[int, Outcome]) -> None:
        self.told += 1
        self.outcomes |= outcomes
        if len(self.outcomes) == self._images:
            self.done.set()

    def fail(self, fault: ClassifierFault) -> None:
        self.fault = fault
        self.done.set()

    def results(self) -> dict[int, object]:
        assert self.done.wait(10)
        return {position: outcome.result for position, outcome in self.outcomes.items()}


class Slots:
    """A loader's slots, and which of them were given back."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def load(self, value: int) -> Loaded:
        pixels = np.full((CROP, CROP, 3), value, np.uint8)
        came = Provenance(sha256=f"sha of {value}")
        return Loaded(pixels, came, self, slot=value, measured=(0.5, 0.25, 0.125))

    def take_back(self, loads: Sequence[Loaded]) -> None:
        for load in loads:
            load.pixels[:] = 255  # the next image overwrites these pixels
            self.released.append(load.slot)


class Signal:
    """Owns a slot, and signals when the slot comes back."""

    def __init__(self) -> None:
        self.given_back = threading.Event()

    def load(self, value: int) -> Loaded:
        return replace(Slots().load(value), owner=self)

    def take_back(self, _: Sequence[Loaded]) -> None:
        self.given_back.set()


@pytest.fixture
def classifier() -> GatedClassifier:
    return GatedClassifier()


@pytest.fixture
def make_batcher(classifier: GatedClassifier) -> Iterator:
    batchers = []

    def make(max_wait_s: float, **options: Any) -> Batcher:
        batchers.append(Batcher(classifier, max_wait_s=max_wait_s, **options))
        batchers[-1].start()
        return batchers[-1]

    yield make
    classifier.go.set()
    for batcher in batchers:
        batcher.close()


def guess(value: int) -> Prediction:
    return Prediction((value, value + 1), (0.75, 0.25))


def test_a_batch_is_filled_from_several_chunks_and_sent_when_full(make_batcher, classifier) -> None:
    batcher, slots = make_batcher(FOR_EVER_S), Slots()
    here, there = Run(3), Run(1)
    for n, (run, position) in enumerate([(here, 10), (there, 70), (here, 11), (here, 12)]):
        batcher.put(run, [(position, slots.load(n))])
    assert here.results() == {10: guess(0), 11: guess(2), 12: guess(3)}
    assert there.results() == {70: guess(1)}
    assert there.outcomes[70].provenance == Provenance(sha256="sha of 1")
    assert classifier.batches == [4]


def test_images_that_arrive_together_are_split_where_a_batch_is_full(
    make_batcher, classifier
) -> None:
    classifier.go.clear()
    batcher, slots, before, run = make_batcher(0.0), Slots(), Run(1), Run(9)
    batcher.put(before, [(0, slots.load(0))])
    assert classifier.busy.wait(10)
    batcher.put(run, [(n, slots.load(n)) for n in range(9)])
    classifier.go.set()
    assert run.results() == {n: guess(n) for n in range(9)}
    assert classifier.batches == [1, 4, 4, 1]
    assert slots.released == [0, *range(9)]


def test_a_run_is_told_once_per_batch_about_all_its_images(make_batcher) -> None:
    batcher, run = make_batcher(FOR_EVER_S), Run(4)
    for n in range(4):
        batcher.put(run, [(n, Slots().load(n))])
    assert run.results() == {n: guess(n) for n in range(4)}
    assert run.told == 1


def test_a_batch_that_is_not_full_is_sent_once_its_oldest_image_has_waited(
    make_batcher, classifier
) -> None:
    batcher, run = make_batcher(0.05), Run(2)
    batcher.put(run, [(0, Slots().load(5))])
    batcher.put(run, [(1, Slots().load(6))])
    assert run.results() == {0: guess(5), 1: guess(6)}
    assert classifier.batches == [2]


def test_slots_are_given_back_before_the_classifier_runs(make_batcher, classifier) -> None:
    classifier.go.clear()
    batcher, slots, run = make_batcher(0.0), Slots(), Run(1)
    batcher.put(run, [(0, slots.load(7))])
    assert classifier.busy.wait(10)
    assert slots.released == [7]
    classifier.go.set()
    assert run.results() == {0: guess(7)}


def test_images_that_arrive_while_the_classifier_runs_share_a_batch(
    make_batcher, classifier
) -> None:
    classifier.go.clear()
    batcher, run = make_batcher(0.0), Run(4)
    batcher.put(run, [(0, Slots().load(0))])
    assert classifier.busy.wait(10)
    for n in (1, 2, 3):
        batcher.put(run, [(n, Slots().load(n))])
    classifier.go.set()
    run.results()
    assert classifier.batches == [1, 3]


class Looks:
    """What the batcher has shown of each batch.

    These are the runs with their positions, the first byte of each picture, and its class.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[list[tuple[Run, list[int]]], list[int], list[int]]] = []
        self.fault: Exception | None = None

    def __call__(self, parts: Sequence[Arrived], pixels: np.ndarray, predictions: Any) -> None:
        if self.fault is not None:
            raise self.fault
        runs: Any = [(part.run, [position for position, _ in part.images]) for part in parts]
        self.seen.append((runs, pixels[:, 0, 0, 0].tolist(), predictions.class_ids[:, 0].tolist()))


def test_a_batch_is_shown_with_its_answers_before_its_runs_are_told(make_batcher) -> None:
    looks = Looks()
    batcher, here, there = make_batcher(FOR_EVER_S, look=looks), Run(3), Run(1)
    batcher.put(here, [(10, Slots().load(0)), (11, Slots().load(1))])
    batcher.put(there, [(70, Slots().load(2))])
    batcher.put(here, [(12, Slots().load(3))])
    assert here.results() == {10: guess(0), 11: guess(1), 12: guess(3)}
    assert looks.seen == [
        ([(here, [10, 11]), (there, [70]), (here, [12])], [0, 1, 2, 3], [0, 1, 2, 3])
    ]


def test_an_error_in_the_look_callback_costs_no_image(make_batcher, caplog) -> None:
    looks = Looks()
    looks.fault = ZeroDivisionError("planted")
    batcher, run = make_batcher(0.0, look=looks), Run(1)
    batcher.put(run, [(0, Slots().load(5))])
    assert run.results() == {0: guess(5)}
    assert "planted" in caplog.text


def test_a_batch_whose_memory_is_overwritten_is_not_shown(make_batcher, classifier) -> None:
    looks = Looks()
    classifier.go.clear()
    batcher, first, second = make_batcher(0.0, look=looks), Run(1), Run(1)
    batcher.put(first, [(0, Slots().load(5))])
    assert classifier.busy.wait(10)
    classifier.overwrites += 1
    classifier.go.set()
    assert first.results() == {0: guess(5)}
    batcher.put(second, [(0, Slots().load(6))])
    assert second.results() == {0: guess(6)}
    assert looks.seen == [([(second, [0])], [6], [6])]


@pytest.fixture
def device() -> GatedClassifier:
    return GatedClassifier(by_itself=True)


def test_the_next_batch_is_sent_while_the_device_still_computes_one(device) -> None:
    device.go.clear()
    batcher, first, second = Batcher(device, max_wait_s=0.0), Run(4), Run(4)
    batcher.start()
    for n in range(4):
        batcher.put(first, [(n, Slots().load(n))])
    assert device.busy.wait(10)
    device.busy.clear()
    for n in range(4):
        batcher.put(second, [(n, Slots().load(10 + n))])
    assert device.busy.wait(10)
    assert not first.done.is_set()
    device.go.set()
    assert first.results() == {n: guess(n) for n in range(4)}
    assert second.results() == {n: guess(10 + n) for n in range(4)}
    batcher.close()


def test_a_batch_in_flight_is_settled_even_if_no_other_follows(device) -> None:
    device.go.clear()
    batcher, run = Batcher(device, max_wait_s=0.0), Run(1)
    batcher.start()
    batcher.put(run, [(0, Slots().load(5))])
    assert device.busy.wait(10)
    device.go.set()
    assert run.results() == {0: guess(5)}
    batcher.close()


def test_a_device_that_fails_during_a_batch_settles_none_of_its_images(device) -> None:
    device.fault = RuntimeError("device fell off")
    batcher, first, second = Batcher(device, max_wait_s=0.0), Run(1), Run(1)
    batcher.start()
    batcher.put(first, [(0, Slots().load(1))])
    assert first.results() == {}
    batcher.put(second, [(0, Slots().load(2))])
    assert second.results() == {0: guess(2)}
    batcher.close()


def test_scores_that_are_not_finite_fail_only_their_image(make_batcher, classifier) -> None:
    classifier.not_finite = 8
    batcher, run = make_batcher(0.05), Run(2)
    batcher.put(run, [(0, Slots().load(8))])
    batcher.put(run, [(1, Slots().load(9))])
    assert run.results() == {0: Failure("not_finite"), 1: guess(9)}


def test_a_classifier_fault_settles_no_image_and_costs_no_other_batch(
    make_batcher, classifier, caplog
) -> None:
    classifier.fault = RuntimeError("device fell off")
    batcher, first, second = make_batcher(0.0), Run(1), Run(1)
    batcher.put(first, [(0, Slots().load(1))])
    assert first.results() == {}
    assert "RuntimeError" in str(first.fault)
    batcher.put(second, [(0, Slots().load(2))])
    assert second.results() == {0: guess(2)}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "batch of 1 images" in errors[0].message
    assert "device fell off" in str(errors[0].exc_info[1])


def test_a_classifier_that_fails_several_times_in_a_row_counts_as_broken(
    make_batcher, classifier, caplog
) -> None:
    broken = threading.Event()
    batcher = make_batcher(0.0, when_broken=broken.set)
    for fails in [True] * (FAULTS_TO_STOP - 1) + [False] + [True] * FAULTS_TO_STOP:
        assert not broken.is_set()
        classifier.fault = RuntimeError("device fell off") if fails else None
        run = Run(1)
        batcher.put(run, [(0, Slots().load(1))])
        run.results()
    assert broken.wait(10)
    assert "3 batches in a row. The last error: device fell off" in caplog.text


def test_a_batcher_that_cannot_go_on_says_so(make_batcher, classifier, caplog, monkeypatch) -> None:
    broken = threading.Event()
    monkeypatch.setattr(classifier, "room", lambda: classifier.nothing_like_that)
    make_batcher(0.0, when_broken=broken.set)
    assert broken.wait(10)
    assert "No more batches can be filled" in caplog.text


def test_a_broken_device_stops_the_batcher_and_every_image_goes_back(
    make_batcher, classifier, caplog
) -> None:
    """This includes images that wait for a batch, and images that arrive later."""
    broken = threading.Event()
    batcher, slots = make_batcher(0.0, when_broken=broken.set), Slots()
    first, waiting, late = Run(1), Run(5), Run(1)
    classifier.go.clear()
    classifier.fault = DeviceBroken("CUDA error: an illegal memory access was encountered")
    batcher.put(first, [(0, slots.load(1))])
    assert classifier.busy.wait(10)
    batcher.put(waiting, [(n, slots.load(n)) for n in range(5)])
    classifier.go.set()
    assert broken.wait(10)
    for run in (first, waiting):
        assert run.results() == {}
        assert "illegal memory access" in str(run.fault) or "DeviceBroken" in str(run.fault)
    batcher.put(late, [(0, slots.load(9))])
    assert late.results() == {}
    assert sorted(slots.released) == [0, 1, 1, 2, 3, 4, 9]
    assert classifier.batches == [1]
    assert batcher.broken == "CUDA error: an illegal memory access was encountered"
    assert caplog.text.count("This worker hands its chunks back and ends") == 1


def test_a_device_that_hangs_is_noticed_and_every_image_goes_back(device, caplog) -> None:
    """Meanwhile the batcher's own thread waits for the device without end."""
    broken = threading.Event()
    device.device = "cuda:0"
    device.go.clear()
    batcher = Batcher(device, max_wait_s=0.0, when_broken=broken.set, hung_after_s=0.2)
    batcher.start()
    first, second, waiting = Run(4), Run(4), Run(4)
    for run in (first, second):
        device.busy.clear()
        batcher.put(run, [(n, Slots().load(n)) for n in range(4)])
        assert device.busy.wait(10)
    batcher.put(waiting, [(n, Slots().load(n)) for n in range(4)])
    assert broken.wait(10)
    for run in (first, second, waiting):
        assert run.results() == {}
        assert run.fault is not None
    batcher.close()
    assert "The device hangs: it has been computing one batch for" in caplog.text
    assert batcher.broken is not None
    device.go.set()


def test_a_device_that_waits_for_images_does_not_count_as_hanging(device) -> None:
    """Its batch is done, and the next one may take as long to fill as it is allowed."""
    broken = threading.Event()
    device.device = "cuda:0"
    batcher = Batcher(device, max_wait_s=FOR_EVER_S, when_broken=broken.set, hung_after_s=0.05)
    batcher.start()
    first, second = Run(4), Run(4)
    batcher.put(first, [(n, Slots().load(n)) for n in range(4)])
    batcher.put(second, [(0, Slots().load(4))])
    assert device.seen_done.wait(10)
    assert not broken.wait(0.2)
    batcher.put(second, [(n, Slots().load(4 + n)) for n in range(1, 4)])
    assert second.results() == {n: guess(4 + n) for n in range(4)}
    batcher.close()


def test_a_cpu_may_take_any_length_of_time(make_batcher, classifier) -> None:
    broken = threading.Event()
    classifier.go.clear()
    batcher, run = make_batcher(0.0, when_broken=broken.set, hung_after_s=0.05), Run(1)
    batcher.put(run, [(0, Slots().load(1))])
    assert classifier.busy.wait(10)
    assert not broken.wait(0.2)
    classifier.go.set()
    assert run.results() == {0: guess(1)}


def test_closing_finishes_the_images_that_have_arrived(classifier) -> None:
    batcher, run = Batcher(classifier, max_wait_s=FOR_EVER_S), Run(6)
    batcher.start()
    for n in range(6):
        batcher.put(run, [(n, Slots().load(n))])
    batcher.close()
    assert run.results() == {n: guess(n) for n in range(6)}
    assert classifier.batches == [4, 2]


def test_the_rate_is_known_after_the_first_batch(make_batcher) -> None:
    batcher, run = make_batcher(0.0), Run(1)
    assert batcher.images_per_s == 0
    batcher.put(run, [(0, Slots().load(1))])
    run.results()
    batcher.close()
    assert batcher.images_per_s > 0


# Measurements


class Clock:
    """Replaces `time` in the batcher. It stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    for module in ("batch", "batcher"):
        monkeypatch.setattr(f"worker.batch.{module}.time", clock)
    return clock


def device_s(run: Run) -> float:
    return run.outcomes[0].measured[STAGES.index("device_s")]


def busy_s(metrics: Metrics) -> float:
    return metrics.read()["resnext_device_busy_seconds_total"][()]


def test_an_image_records_how_long_it_waited_and_how_long_its_batch_took(
    clock, classifier, make_batcher
) -> None:
    classifier.go.clear()
    metrics = Metrics()
    batcher, first, second = make_batcher(0.0, metrics=metrics), Run(1), Run(2)
    batcher.put(first, [(0, Slots().load(1))])
    assert classifier.busy.wait(10)
    batcher.put(second, [(0, Slots().load(2))])
    clock.seconds += 4
    batcher.put(second, [(1, Slots().load(3))])
    clock.seconds += 2
    classifier.go.set()
    second.results()
    assert first.outcomes[0].measured == (0.5, 0.25, 0.125, 0.0, 6.0, 1)
    assert second.outcomes[0].measured == (0.5, 0.25, 0.125, 6.0, 0.0, 2)
    assert second.outcomes[1].measured == (0.5, 0.25, 0.125, 2.0, 0.0, 2)
    assert busy_s(metrics) == 6.0


def test_device_time_with_two_batches_in_flight_counts_once(clock, device) -> None:
    device.go.clear()
    metrics = Metrics()
    batcher, first, second = Batcher(device, max_wait_s=0.0, metrics=metrics), Run(4), Run(4)
    batcher.start()
    for run in (first, second):
        device.busy.clear()
        for n in range(4):
            batcher.put(run, [(n, Slots().load(n))])
        assert device.busy.wait(10)
    clock.seconds += 10
    device.go.set()
    first.results()
    second.results()
    batcher.close()
    assert device.batches == [4, 4]
    assert [device_s(run) for run in (first, second)] == [10.0, 0.0]
    assert busy_s(metrics) == 10.0


def test_a_device_is_not_busy_while_it_waits_for_images(clock, device) -> None:
    """It finishes one batch long before the next one is full."""
    device.go.clear()
    metrics = Metrics()
    batcher = Batcher(device, max_wait_s=FOR_EVER_S, metrics=metrics)
    first, second = Run(4), Run(4)
    batcher.start()
    for n in range(4):
        batcher.put(first, [(n, Slots().load(n))])
    assert device.busy.wait(10)
    copied, taken = Signal(), Signal()
    batcher.put(second, [(0, copied.load(0))])
    assert copied.given_back.wait(10)
    clock.seconds += 5
    device.go.set()
    assert device.seen_done.wait(10)
    batcher.put(second, [(1, taken.load(1))])
    assert taken.given_back.wait(10)  # so the batcher has noted the time
    clock.seconds += 100
    for n in (2, 3):
        batcher.put(second, [(n, Slots().load(n))])
    first.results()
    second.results()
    batcher.close()
    assert device_s(first) == 5.0
    assert busy_s(metrics) == 5.0
