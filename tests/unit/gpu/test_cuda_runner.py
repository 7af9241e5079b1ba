"""The classifier on a double of CUDA: lanes, graphs, memory, and a device that breaks."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from resnext.classifier import Classifier
from resnext.errors import DeviceBroken
from tests.doubles.cuda import NO_MEMORY, STICKY, Cuda, lanes_of, make_classifier, pictures


@pytest.fixture
def cuda(monkeypatch) -> Iterator[Cuda]:
    cuda = Cuda()
    cuda.install(monkeypatch.setattr)
    yield cuda
    cuda.goes_on.set()


def classes(classifier: Classifier, images: np.ndarray) -> list[int]:
    return classifier.classify(images).class_ids[:, 0].tolist()


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("batch_images", [32, 256])
def test_after_the_warm_up_each_lane_has_a_graph_of_each_size_and_no_more_are_made(
    cuda, engine, batch_images, monkeypatch
) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)
    classifier = make_classifier(cuda, batch_images, engine=engine)
    classifier.warm_up()
    assert lanes_of(classifier) == [classifier._buckets] * 2

    made, wrong = len(cuda.captures), []

    def serve() -> None:
        for images in [batch_images] * 3 + list(range(1, batch_images + 1, 5)):
            values = [n % 256 for n in range(images)]
            if classes(classifier, pictures(*values)) != values:
                wrong.append(images)

    batcher = threading.Thread(target=serve, name="batcher")
    batcher.start()
    batcher.join()
    assert wrong == []
    assert len(cuda.captures) == made
    assert {capture.thread for capture in cuda.captures} == {"MainThread"}


def test_batch_sizes_are_powers_of_four_when_compiled_and_of_two_otherwise(
    cuda, monkeypatch
) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)
    assert make_classifier(cuda, 256)._buckets == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert make_classifier(cuda, 256, engine="compiled")._buckets == [1, 4, 16, 64, 256]


def test_two_batches_in_flight_keep_their_own_answers(cuda) -> None:
    classifier = make_classifier(cuda)
    classifier.warm_up()
    first = classifier.start(pictures(1, 2, 3))
    second = classifier.start(pictures(4, 5))
    third = classifier.start(pictures(6))  # same lane as the first, which is unread
    found = [part.result().class_ids[:, 0].tolist() for part in (third, second, first)]
    assert found == [[6], [4, 5], [1, 2, 3]]
    assert first.is_done()


def test_pictures_written_into_the_room_are_classified_without_a_copy(cuda) -> None:
    classifier = make_classifier(cuda)
    for values in ([1, 2, 3], [4, 5], [6, 7, 8], [9]):
        room = classifier.room()
        room[:] = 0
        room[: len(values)] = pictures(*values)
        assert classes(classifier, room[: len(values)]) == values


def test_a_batch_stays_in_its_room_until_the_room_is_overwritten(cuda) -> None:
    """Code that has a batch's answers can still look at its pictures."""
    classifier = make_classifier(cuda)
    classifier.warm_up()
    before = classifier.overwrites
    rooms, batches = [], []
    for values in ([1, 2, 3], [4, 5, 6]):
        rooms.append(classifier.room()[:3])
        rooms[-1][:] = pictures(*values)
        batches.append(classifier.start(rooms[-1]))
    found = [batch.result().class_ids[:, 0].tolist() for batch in batches]
    assert [room[:, 0, 0, 0].tolist() for room in rooms] == found == [[1, 2, 3], [4, 5, 6]]
    assert classifier.overwrites == before
    classifier.start(pictures(7, 8, 9)).result()
    assert classifier.overwrites == before + 1


def test_a_room_has_no_more_places_than_fit_into_memory(cuda) -> None:
    def compute(images: int) -> None:
        if images > 2:
            raise torch.OutOfMemoryError(NO_MEMORY)

    cuda.on_compute = compute
    classifier = make_classifier(cuda)
    assert len(classifier.room()) == 8
    classifier.warm_up()
    before = classifier.overwrites
    room = classifier.room()
    assert len(room) == 2
    room[:] = pictures(3, 4)
    assert classes(classifier, room) == [3, 4]
    assert classifier.overwrites == before


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (slice(None, None, 2), [0, 2, 4, 6]),
        (slice(None, None, -1), [7, 6, 5, 4, 3, 2, 1, 0]),
        (slice(1, 4), [1, 2, 3]),
    ],
)
def test_a_slice_of_the_room_is_classified_as_it_is(cuda, taken, expected) -> None:
    classifier = make_classifier(cuda)
    room = classifier.room()
    room[:] = pictures(*range(8))
    assert classes(classifier, room[taken]) == expected


def test_pictures_in_reverse_memory_order_are_accepted(cuda) -> None:
    classifier = make_classifier(cuda)
    assert classes(classifier, pictures(1, 2, 3)[::-1]) == [3, 2, 1]


def test_waits_do_not_spin_and_other_threads_may_use_cuda_during_a_capture(cuda) -> None:
    make_classifier(cuda).warm_up()
    assert cuda.events
    assert all(options == {"blocking": True} for options in cuda.events)
    assert {capture.mode for capture in cuda.captures} == {"thread_local"}


def test_cudnn_times_all_its_algorithms_for_our_batches_only(cuda) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    seen = []
    cuda.on_compute = lambda _: seen.append((cudnn.benchmark, cudnn.benchmark_limit))
    make_classifier(cuda).warm_up()
    assert set(seen) == {(True, 0)}
    assert (cudnn.benchmark, cudnn.benchmark_limit) == before


# A capture that fails


@pytest.mark.parametrize(
    "error", ["operation not permitted when stream is capturing", "operation not supported"]
)
def test_a_size_that_cannot_be_captured_runs_without_a_graph_and_the_others_have_graphs(
    cuda, caplog, error
) -> None:
    def fail(images: int) -> None:
        if images == 4:
            raise torch.AcceleratorError(f"CUDA error: {error}")

    cuda.on_capture = fail
    classifier = make_classifier(cuda)
    classifier.warm_up()
    assert lanes_of(classifier) == [[1, 2, 8]] * 2
    assert caplog.text.count("without CUDA graphs") == 1
    tries = []
    cuda.on_capture = tries.append
    assert classes(classifier, pictures(1, 2, 3)) == [1, 2, 3]
    assert classes(classifier, pictures(*range(8))) == list(range(8))
    assert tries == []


def test_graphs_share_memory_and_get_a_new_pool_after_the_last_graph_is_gone(cuda) -> None:
    """A memory pool ends with its last graph, and torch then refuses to use it."""

    def fail_first(_: int) -> None:
        if not cuda.captures and cuda.pools == 1:
            raise RuntimeError("the capture failed")

    cuda.on_capture = fail_first
    make_classifier(cuda).warm_up()
    assert {capture.pool for capture in cuda.captures} == {(2, 0)}


# Too little memory


class Activations:
    """Stands for the memory that a forward pass holds."""


@pytest.mark.parametrize("when", ["forward", "capture", "hidden by the end of the capture"])
def test_a_batch_that_does_not_fit_is_halved_and_graphs_stay(cuda, when, caplog) -> None:
    held: list[weakref.ref[Activations]] = []
    alive: list[bool] = []

    def compute(images: int) -> None:
        activations = Activations()
        held.append(weakref.ref(activations))
        if images > 2 and (when == "forward" or cuda.capturing is not None):
            raise torch.OutOfMemoryError(NO_MEMORY)

    def end_capture(images: int) -> None:
        if images > 2 and when.startswith("hidden"):
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    cuda.on_compute, cuda.on_capture = compute, end_capture
    cuda.on_empty_cache = lambda: alive.append(any(one() is not None for one in held))
    classifier = make_classifier(cuda)
    classifier.warm_up()
    assert lanes_of(classifier) == [[1, 2]] * 2
    assert classes(classifier, pictures(*range(8))) == list(range(8))
    assert alive
    assert not any(alive), "the failed try holds no memory when the cache is emptied"
    assert caplog.text.count("do not fit into the memory of cuda:0") == 1
    assert "without CUDA graphs" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_every_error_for_too_little_memory_is_recognised(cuda, error, monkeypatch) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)

    def compute(images: int) -> None:
        if images > 4:
            raise error

    cuda.on_compute = compute
    classifier = make_classifier(cuda, engine="compiled")
    classifier.warm_up()
    assert classifier.engine == "compiled"
    assert classes(classifier, pictures(*range(8))) == list(range(8))


def test_memory_taken_later_by_another_process_costs_only_the_larger_graphs(cuda) -> None:
    classifier = make_classifier(cuda)
    classifier.warm_up()
    fail = [True]

    def replay() -> None:
        if fail.pop() if fail else False:
            raise torch.AcceleratorError("CUDA error: out of memory")

    cuda.on_replay = replay
    assert classes(classifier, pictures(*range(8))) == list(range(8))
    assert lanes_of(classifier) == [[1, 2, 4]] * 2


def test_the_parts_of_a_halved_batch_keep_their_answers(cuda) -> None:
    def compute(images: int) -> None:
        if images > 1:
            raise torch.OutOfMemoryError(NO_MEMORY)

    cuda.on_compute = compute
    classifier = make_classifier(cuda)
    room = classifier.room()
    room[:] = pictures(*range(8))
    assert classes(classifier, room) == list(range(8))


# A device that breaks


@pytest.mark.parametrize("where", ["start", "result"])
def test_a_sticky_error_is_recognised_and_frees_no_pinned_memory(cuda, where) -> None:
    """Freeing pinned memory records an event. Its error would end the process."""
    freed = []
    cuda.when_pinned_is_freed = lambda: freed.append(1) if cuda.broken else None
    classifier = make_classifier(cuda)
    classifier.warm_up()
    if where == "start":
        cuda.break_down()
        with pytest.raises(DeviceBroken, match="device-side assert"):
            classifier.start(pictures(1))
    else:
        under_way = classifier.start(pictures(1))
        cuda.break_down()
        assert under_way.is_done()
        with pytest.raises(DeviceBroken, match="device-side assert"):
            under_way.result()
        del under_way
    del classifier
    gc.collect()
    assert freed == []


def test_a_device_that_breaks_during_a_capture_does_not_count_as_a_failed_capture(
    cuda, caplog
) -> None:
    def fail(_: int) -> None:
        cuda.break_down()
        raise RuntimeError("the capture failed")

    cuda.on_capture = fail
    with pytest.raises(DeviceBroken):
        make_classifier(cuda).warm_up()
    assert caplog.text == ""


def test_a_device_that_breaks_while_compiling_does_not_run_uncompiled(
    cuda, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)
    classifier = make_classifier(cuda, engine="compiled")
    cuda.break_down(STICKY)
    with pytest.raises(DeviceBroken):
        classifier.warm_up()
    assert caplog.text == ""


# The compiled network


def test_a_network_that_fails_to_compile_still_has_all_graphs(cuda, monkeypatch) -> None:
    """It uses other batch sizes than the compiled network, and new lanes."""

    def compile_(module: torch.nn.Module, _: torch.device) -> object:
        def forward(pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) < 8:
                raise RuntimeError("Failed to find C compiler.")
            return module(pixels)

        return forward

    monkeypatch.setattr("resnext.classifier.compile_module", compile_)
    monkeypatch.setattr("resnext.classifier.PixelsToLogits", torch.nn.Module)
    monkeypatch.setattr("resnext.classifier.choose_layers", lambda module, *_, **__: module)
    classifier = make_classifier(cuda, engine="compiled")
    classifier.warm_up()
    assert classifier.engine == "eager"
    assert lanes_of(classifier) == [[1, 2, 4, 8]] * 2


def test_logits_come_from_a_graph_of_the_compiled_network(cuda, monkeypatch) -> None:
    """If `logits` computed them in another way, a comparison would miss a wrong kernel."""
    monkeypatch.setattr(
        "resnext.classifier.compile_module",
        lambda module, _: lambda pixels: module(pixels) + 1000.0,
    )
    classifier = make_classifier(cuda, engine="compiled")
    found = classifier.logits(pictures(3, 5))
    assert (found.shape, found[0, 3], found[1, 5]) == ((2, 256), 1000.0, 1000.0)
    assert cuda.replays == 1
