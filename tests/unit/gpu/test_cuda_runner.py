"""The classifier on a GPU, on a double of CUDA: lanes, graphs, memory, and a device that breaks."""

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
def test_after_warm_up_each_lane_has_a_graph_of_each_size_and_no_other_comes(
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


def test_sizes_go_by_two_where_nothing_is_compiled_and_else_by_four(cuda, monkeypatch) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)
    assert make_classifier(cuda, 256)._buckets == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert make_classifier(cuda, 256, engine="compiled")._buckets == [1, 4, 16, 64, 256]


def test_two_batches_under_way_keep_their_own_answers(cuda) -> None:
    classifier = make_classifier(cuda)
    classifier.warm_up()
    first = classifier.start(pictures(1, 2, 3))
    second = classifier.start(pictures(4, 5))
    third = classifier.start(pictures(6))  # in the lane of the first, whose answers nobody has read
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


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (slice(None, None, 2), [0, 2, 4, 6]),
        (slice(None, None, -1), [7, 6, 5, 4, 3, 2, 1, 0]),
        (slice(1, 4), [1, 2, 3]),
    ],
)
def test_a_part_of_the_room_is_what_it_is_and_not_its_beginning(cuda, taken, expected) -> None:
    classifier = make_classifier(cuda)
    room = classifier.room()
    room[:] = pictures(*range(8))
    assert classes(classifier, room[taken]) == expected


def test_pictures_in_another_order_than_memory_are_taken(cuda) -> None:
    classifier = make_classifier(cuda)
    assert classes(classifier, pictures(1, 2, 3)[::-1]) == [3, 2, 1]


def test_waits_do_not_spin_and_other_threads_may_call_cuda_during_a_capture(cuda) -> None:
    make_classifier(cuda).warm_up()
    assert cuda.events
    assert all(options == {"blocking": True} for options in cuda.events)
    assert {capture.mode for capture in cuda.captures} == {"thread_local"}


def test_cudnn_times_all_it_can_do_for_our_batches_and_for_nothing_else(cuda) -> None:
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
def test_where_one_size_cannot_be_captured_it_runs_without_and_the_others_have_graphs(
    cuda, caplog, error
) -> None:
    def fail(images: int) -> None:
        if images == 4:
            raise torch.AcceleratorError(f"CUDA error: {error}")

    cuda.on_capture = fail
    classifier = make_classifier(cuda)
    classifier.warm_up()
    assert lanes_of(classifier) == [[1, 2, 8]] * 2
    assert caplog.text.count("No CUDA graphs") == 1
    tries = []
    cuda.on_capture = tries.append
    assert classes(classifier, pictures(1, 2, 3)) == [1, 2, 3]
    assert classes(classifier, pictures(*range(8))) == list(range(8))
    assert tries == []


def test_graphs_share_memory_while_there_is_one_and_get_new_memory_after_the_last(cuda) -> None:
    """The memory ends with its last graph, and torch refuses it from then on."""

    def fail_first(_: int) -> None:
        if not cuda.captures and cuda.pools == 1:
            raise RuntimeError("the capture failed")

    cuda.on_capture = fail_first
    make_classifier(cuda).warm_up()
    assert {capture.pool for capture in cuda.captures} == {(2, 0)}


# Memory that is too small


class Activations:
    """Stands for the memory that a forward holds."""


@pytest.mark.parametrize("when", ["forward", "capture", "hidden by the end of the capture"])
def test_what_does_not_fit_is_halved_and_graphs_stay(cuda, when, caplog) -> None:
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
    assert not any(alive), "what the failed try held is free before memory is given back"
    assert caplog.text.count("do not fit into the memory of cuda:0") == 1
    assert "No CUDA graphs" not in caplog.text


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
def test_every_word_for_too_little_memory_is_understood(cuda, error, monkeypatch) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)

    def compute(images: int) -> None:
        if images > 4:
            raise error

    cuda.on_compute = compute
    classifier = make_classifier(cuda, engine="compiled")
    classifier.warm_up()
    assert classifier.engine == "compiled"
    assert classes(classifier, pictures(*range(8))) == list(range(8))


def test_memory_that_another_process_takes_later_costs_the_larger_graphs_alone(cuda) -> None:
    classifier = make_classifier(cuda)
    classifier.warm_up()
    fail = [True]

    def replay() -> None:
        if fail.pop() if fail else False:
            raise torch.AcceleratorError("CUDA error: out of memory")

    cuda.on_replay = replay
    assert classes(classifier, pictures(*range(8))) == list(range(8))
    assert lanes_of(classifier) == [[1, 2, 4]] * 2


def test_many_parts_of_a_halved_batch_keep_their_answers(cuda) -> None:
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
def test_an_error_that_sticks_is_told_apart_and_frees_no_pinned_memory(cuda, where) -> None:
    """Freed memory records an event, and its error ends the process."""
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


def test_a_device_that_breaks_during_a_capture_is_no_capture_that_failed(cuda, caplog) -> None:
    def fail(_: int) -> None:
        cuda.break_down()
        raise RuntimeError("the capture failed")

    cuda.on_capture = fail
    with pytest.raises(DeviceBroken):
        make_classifier(cuda).warm_up()
    assert caplog.text == ""


def test_a_device_that_breaks_while_it_compiles_does_not_run_uncompiled(
    cuda, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("resnext.classifier.compile_module", lambda module, _: module)
    classifier = make_classifier(cuda, engine="compiled")
    cuda.break_down(STICKY)
    with pytest.raises(DeviceBroken):
        classifier.warm_up()
    assert caplog.text == ""


# What is compiled


def test_a_network_that_turns_out_not_to_compile_has_all_graphs_all_the_same(
    cuda, monkeypatch
) -> None:
    """Its sizes are others, and its lanes are new."""

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


def test_logits_are_those_of_the_compiled_network_from_a_graph(cuda, monkeypatch) -> None:
    """A comparison that computed them another way would not see a wrong kernel."""
    monkeypatch.setattr(
        "resnext.classifier.compile_module",
        lambda module, _: lambda pixels: module(pixels) + 1000.0,
    )
    classifier = make_classifier(cuda, engine="compiled")
    found = classifier.logits(pictures(3, 5))
    assert (found.shape, found[0, 3], found[1, 5]) == ((2, 256), 1000.0, 1000.0)
    assert cuda.replays == 1
