"""Step 2: two batches in flight keep their own answers, and nothing is planned after the warm-up.

Another thread serves batches of random size, written into the classifier's memory while two
batches are in flight. On a GPU this delays the copy stream and the compute stream in turn, to
expose races. It also measures what the copies cost.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import torch

from benchmarks.gpu_check import devices, timing
from benchmarks.gpu_check.devices import Tried, counting_captures, wrong
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.step import Given
from resnext import Classifier
from resnext.classifier import Pending
from resnext.predictions import Predictions

_GPU_BATCHES, _DOUBLE_BATCHES = 3_000, 300
_SERVED_WITHIN_S: Final = 20.0
# Cycles of the SM's clock: about 50 microseconds.
_HELD_UP_CYCLES: Final = 100_000
SAME: Final = 1e-3
WITH_COPIES: Final = 0.97


def check(given: Given, report: Report) -> None:
    tried = devices.find(given.scratch)
    classifier = tried.make()
    with counting_captures() as captured:
        classifier.warm_up()
        at_warm_up = len(captured)
        report.note("captures in the warm-up", at_warm_up)
        check_graphs(classifier, report)
        table = tried.table(classifier)
        report.at_least("pictures with distinct answers", _different(table), 20)
        _serve_in_a_thread(classifier, tried, table, report)
        report.at_most("captures after the warm-up", len(captured) - at_warm_up, 0)
    if tried.double is not None:
        report.skip("speed", "on a double nothing takes time")
        return
    _compare_lanes(classifier, tried, report)
    _time(classifier, tried, report)


def check_graphs(classifier: Classifier, report: Report) -> None:
    """Checks that every lane has a graph for every size."""
    missing = [
        f"{bucket} in lane {n}"
        for n, lane in enumerate(classifier._runner._lanes)  # type: ignore[attr-defined]
        for bucket in classifier._buckets
        if bucket not in lane.graphs
    ]
    sizes = ", ".join(map(str, classifier._buckets))
    report.must("graphs in each lane", not missing, f"without {missing}" if missing else sizes)


def _different(table: Predictions) -> int:
    """The pictures whose answers differ from all others."""
    apart = np.abs(table.scores[:, None] - table.scores[None]).max(axis=2) > devices.SCORE
    apart |= table.class_ids[:, None, 0] != table.class_ids[None, :, 0]
    np.fill_diagonal(apart, val=True)
    return int(apart.all(axis=1).sum())


def _serve_in_a_thread(
    classifier: Classifier, tried: Tried, table: Predictions, report: Report
) -> None:
    with ThreadPoolExecutor(1, "batcher") as batcher:
        batches, failed = batcher.submit(serve, classifier, tried, table).result()
    report.note("batches served", batches)
    report.at_most("wrong answers", failed, 0)


def serve(classifier: Classifier, tried: Tried, table: Predictions) -> tuple[int, int]:
    """Serves batches; returns their number and the number of wrong answers."""
    generator = np.random.default_rng(0)
    in_flight: deque[tuple[np.ndarray, Pending]] = deque()
    failed = batches = 0
    until = time.monotonic() + _SERVED_WITHIN_S
    most = _GPU_BATCHES if tried.double is None else _DOUBLE_BATCHES
    while batches < most and time.monotonic() < until:
        room = classifier.room()
        sent = generator.integers(len(tried.pictures), size=generator.integers(1, len(room) + 1))
        np.take(tried.pictures, sent, axis=0, out=room[: len(sent)])
        if tried.double is None:
            _hold_up(classifier, batches)
        in_flight.append((sent, classifier.start(room[: len(sent)])))
        batches += 1
        if len(in_flight) > 1:
            failed += _failed(in_flight.popleft(), table)
    return batches, failed + sum(_failed(one, table) for one in in_flight)


def _failed(one: tuple[np.ndarray, Pending], table: Predictions) -> int:
    sent, pending = one
    return wrong(pending.result(), table, sent)


def _hold_up(classifier: Classifier, batch: int) -> None:
    """Delays the copy stream before every third batch, and the compute stream likewise."""
    runner = classifier._runner
    streams = (None, runner._copying, runner._computing)  # type: ignore[attr-defined]
    if (stream := streams[batch % len(streams)]) is not None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(_HELD_UP_CYCLES)


def _compare_lanes(classifier: Classifier, tried: Tried, report: Report) -> None:
    """Compares the graph with the plain module, and one lane with the other."""
    images = tried.pictures[: classifier.batch_images]
    logits = classifier.logits(images)
    with torch.inference_mode():
        plain = classifier._forward(torch.from_numpy(images).cuda()).cpu().numpy()
    error = float(np.linalg.norm(logits - plain) / np.linalg.norm(plain))
    report.at_most("graph beside no graph, relative L2", error, SAME)
    first, second = (classifier.classify(images).scores for _ in range(2))
    report.at_most("lane 0 beside lane 1, of a score", np.abs(first - second).max(), SAME)


def _time(classifier: Classifier, tried: Tried, report: Report) -> None:
    size = classifier._buckets[-1]
    images = tried.pictures[np.arange(size) % len(tried.pictures)]
    runner = classifier._runner
    graph, _ = runner._lanes[0].graphs[size]  # type: ignore[attr-defined]
    alone = timing.images_per_s(timing.Replaying(graph, runner._computing), size)  # type: ignore[attr-defined]
    began, cpu = time.perf_counter(), time.process_time()
    served = timing.images_per_s(timing.Serving(classifier, images), size)
    busy = (time.process_time() - cpu) / (time.perf_counter() - began)
    report.note("replay alone", alone, "images/s")
    report.note("with copies", served, "images/s")
    report.at_least("with copies, of replay alone", served / alone, WITH_COPIES)
    report.note("CPU of this process meanwhile", busy, "cores")
