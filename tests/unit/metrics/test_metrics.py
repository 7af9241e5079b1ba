"""What a worker counts: each value in its bucket, nothing twice, and everything is exposed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from contract import VERSION
from contract.broker.message import ChunkMessage
from contract.failure import Failure
from contract.metrics.metric import EDGES_S, Histogram
from worker.chunk.claim import Claim, Image
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Outcome, Prediction, Provenance
from worker.chunk.run import ChunkRun
from worker.metrics.exporter import WorkerCollector
from worker.metrics.stages import METRICS, Metrics
from worker.process.identity import Identity

CAT = Prediction((3,), (1.0,))
IDENTITY = Identity(
    worker="w1",
    queue="q",
    device="cpu",
    precision="fp32",
    orientation="ignore",
    weights_sha256="a",
    model_number=1,
)


def outcome(*stages: float, size: int | None = None) -> Outcome:
    return Outcome(CAT, Provenance(bytes=size), stages)


@given(st.lists(st.lists(st.floats(0, 400) | st.sampled_from(EDGES_S))))
def test_a_bucket_counts_values_up_to_its_edge(batches) -> None:
    histogram = Histogram(EDGES_S)
    for values in batches:
        histogram.add(sorted(values))
    every = [value for values in batches for value in values]
    assert histogram.counts == [sum(value <= edge for value in every) for edge in EDGES_S]
    assert (histogram.count, histogram.sum) == (len(every), pytest.approx(sum(every)))


def test_a_stage_that_an_image_did_not_reach_is_not_counted() -> None:
    metrics = Metrics()
    stored = [outcome(0.1), outcome(0.3, 0.02, 0.004, 0.05, 0.2, 8)]
    metrics.note_stored(stored, {}, store_s=0.01)
    read: dict[str, Any] = metrics.read()
    counted = {name: values.count for name, values in read.items() if isinstance(values, Histogram)}
    assert counted == {
        "resnext_queue_wait_seconds": 0,
        "resnext_fetch_seconds": 2,
        "resnext_decode_wait_seconds": 1,
        "resnext_decode_seconds": 1,
        "resnext_batch_wait_seconds": 1,
        "resnext_batch_images": 0,
        "resnext_device_seconds": 0,
        "resnext_store_seconds": 1,
    }
    assert read["resnext_fetch_seconds"].sum == pytest.approx(0.4)


def test_a_summary_has_the_median_and_maximum_of_each_stage_reached() -> None:
    stored = [outcome(0.1, size=7), outcome(0.5, size=9), outcome(0.2, 0.0, 0.0016), outcome()]
    assert Metrics().note_stored(stored, {}, store_s=0.0104).in_short() == {
        "fetch_ms": {"median": 200.0, "max": 500.0},
        "decode_wait_ms": {"median": 0.0, "max": 0.0},
        "decode_ms": {"median": 1.6, "max": 1.6},
        "store_ms": 10.4,
        "bytes": 16,
    }
    batched = [outcome(0.0, 0.0, 0.0, 0.025, 0.125, images) for images in (8, 32, 32)]
    short = Metrics().note_stored(batched, {}, store_s=0.0).in_short()
    assert short["batch_wait_ms"] == {"median": 25.0, "max": 25.0}
    assert short["device_ms"] == {"median": 125.0, "max": 125.0}
    assert short["batch_images"] == {"median": 32, "max": 32}


def test_a_chunk_counts_as_deferred_once_however_many_of_its_images_are() -> None:
    metrics = Metrics()
    for deferred in (3, 0, 1):
        metrics.note_stored([], {("deferred", ""): deferred}, store_s=0.0)
    assert metrics.read()["resnext_deferred_chunks_total"] == {(): 2}


def test_a_transaction_without_images_is_counted() -> None:
    metrics = Metrics()
    assert metrics.note_stored([], {("handed_back", ""): 3}, store_s=0.0).in_short() == {
        "store_ms": 0.0,
        "bytes": 0,
    }
    assert metrics.read()["resnext_images_total"] == {("handed_back", ""): 3}


def samples(metrics: Metrics, runs: Runs) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Returns the samples as Prometheus reads them, by name and labels."""
    registry = CollectorRegistry()
    registry.register(
        WorkerCollector(
            metrics,
            runs,
            IDENTITY,
            loader_restarts=lambda: {"crashed": 2, "mute": 0},
            device_memory=lambda: {"allocated": 3, "reserved": 4, "total": 80 * 2**30},
        )
    )
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def runs(metrics: Metrics) -> Runs:
    return Runs(SimpleNamespace(), chunk_images=64, metrics=metrics)  # type: ignore[arg-type]


def test_every_metric_is_exposed_in_prometheus_format(metrics: Metrics, runs: Runs) -> None:
    metrics.note_claim(0.2)
    metrics.note_claim(None)
    metrics.note_batch(3, 0.75)
    metrics.note_batch(32, 0.25)
    metrics.note_stored([outcome(0.2, size=7)], {("failed", "http_404"): 2}, store_s=0.01)
    shown = samples(metrics, runs)
    assert shown["resnext_queue_wait_seconds_count", ()] == 1
    assert shown["resnext_fetch_seconds_bucket", (("le", "0.1"),)] == 0
    assert shown["resnext_fetch_seconds_bucket", (("le", "0.25"),)] == 1
    assert shown["resnext_fetch_seconds_bucket", (("le", "+Inf"),)] == 1
    assert shown["resnext_batch_images_bucket", (("le", "4.0"),)] == 1
    assert shown["resnext_batch_images_sum", ()] == 35
    assert shown["resnext_device_busy_seconds_total", ()] == 1.0
    assert shown["resnext_bytes_total", ()] == 7
    assert shown["resnext_loader_restarts_total", (("cause", "crashed"),)] == 2
    assert shown["resnext_loader_restarts_total", (("cause", "mute"),)] == 0
    assert shown["resnext_device_memory_bytes", (("kind", "total"),)] == 80 * 2**30
    failed = (("code", "http_404"), ("outcome", "failed"))
    assert shown["resnext_images_total", failed] == 2
    assert {labels for name, labels in shown if name == "resnext_worker_info"} == {
        (("device", "cpu"), ("precision", "fp32"), ("queue", "q"), ("version", VERSION),
         ("worker", "w1"))
    }  # fmt: skip
    bare = {name for name, _ in shown}
    for name, metric in METRICS.items():
        assert (f"{name}_count" if metric.kind == "histogram" else name) in bare


def test_images_in_flight_are_counted_by_stage(metrics: Metrics, runs: Runs) -> None:
    message = ChunkMessage(
        job="j", job_number=1, chunk=2, generation=1, positions=(0, 1, 2, 3), uris=("u",) * 4
    )
    images = dict.fromkeys(range(4), Image("u", None))
    run = ChunkRun(Claim(message=message, attempt=1, first_position=0, images=images))
    runs.enter(run)
    run.begin_loading([1])
    run.begin_classifying([2])
    run.settle({3: Outcome(Failure("http_404"), Provenance())})
    shown = samples(metrics, runs)
    stages = {labels[0][1]: n for (name, labels), n in shown.items() if "images_in_fl" in name}
    assert stages == {"waiting": 1, "loading": 1, "classifying": 1, "settled": 1}
    assert shown["resnext_chunks_in_flight", ()] == 1
