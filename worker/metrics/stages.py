"""A worker's counts and times by stage, for Prometheus (`worker.metrics.exporter`) and for Flower.

The batcher notes each batch, and `worker.chunk.live_runs` notes each claim and each transaction.
They add many values at once, so an image costs little and the lock is rarely taken. Nothing is
counted twice. An image is counted when its row is in SQL.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from contract.broker.dropped import dropped
from contract.metrics.metric import Histogram, Metric, Values, by_name
from worker.chunk.outcome import STAGES, UNKNOWN, Outcome

EDGES_IMAGES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


METRICS: Final = by_name(
    Metric(
        "resnext_images_total",
        "counter",
        "Images by outcome: classified or failed (final, in SQL), retried (will be tried again), "
        "handed_back (the worker stopped, or its device failed), deferred (its host had no room; "
        "it runs later). `code` is the code of the failure.",
        labels=("outcome", "code"),
    ),
    Metric(
        "resnext_dropped_messages_total",
        "counter",
        "Messages that were dropped because no part of this system can have sent them.",
    ),
    Metric(
        "resnext_deferred_chunks_total",
        "counter",
        "Chunks that went back to SQL for later, because the hosts of some of their images had no "
        "room.",
    ),
    Metric("resnext_bytes_total", "counter", "Bytes of the fetched image files."),
    Metric(
        "resnext_queue_wait_seconds",
        "histogram",
        "Seconds from a chunk's publication to its claim, by the database's clock.",
    ),
    Metric(
        "resnext_fetch_seconds",
        "histogram",
        "Seconds from the start of an image's fetch until its body is complete, or it fails.",
    ),
    Metric(
        "resnext_decode_wait_seconds",
        "histogram",
        "Seconds that an image's body waited for its loader's decoder.",
    ),
    Metric(
        "resnext_decode_seconds",
        "histogram",
        "Seconds to decode, resize and crop an image.",
    ),
    Metric(
        "resnext_batch_wait_seconds",
        "histogram",
        "Seconds that a decoded image waited for the start of its batch.",
    ),
    Metric(
        "resnext_batch_images",
        "histogram",
        "Images in a batch. It shows how full batches are.",
        edges=EDGES_IMAGES,
    ),
    Metric(
        "resnext_device_seconds",
        "histogram",
        "Seconds from a batch's start, or from the previous batch's end, to its answers.",
    ),
    Metric(
        "resnext_device_busy_seconds_total",
        "counter",
        "Seconds in which the device had at least one batch.",
    ),
    Metric(
        "resnext_store_seconds",
        "histogram",
        "Seconds to store images of a chunk, including waits for the database.",
    ),
    Metric(
        "resnext_images_in_flight",
        "gauge",
        "Images that are claimed but not stored: waiting (for a slot in a loader), loading "
        "(fetch and decode), classifying (in the batcher or on the device), settled (to be "
        "stored).",
        labels=("stage",),
    ),
    Metric("resnext_chunks_in_flight", "gauge", "Chunks with images in flight."),
    Metric(
        "resnext_loader_restarts_total",
        "counter",
        "Loader processes that were replaced, by cause: crashed (by a signal that its own code "
        "raised), killed (by another signal, when memory was short or by a person), ended (with "
        "an exit status), decode_timeout and timeout (it took too long for an image), mute (it "
        "did not answer), distrusted (it sent what no loader sends, or had too many threads).",
        labels=("cause",),
    ),
    Metric(
        "resnext_device_memory_bytes",
        "gauge",
        "Memory of the worker's GPU: allocated (in use by the model and its batches), reserved "
        "(held by this process), total (of the GPU). A CPU has no such values.",
        labels=("kind",),
    ),
    Metric(
        "resnext_worker_info",
        "gauge",
        "Always 1. The labels identify the worker in SQL and on its page in Flower.",
        labels=("worker", "version", "device", "precision", "queue"),
    ),
)


DEFERRED: Final = ("deferred", "")
"""The labels of deferred images."""


@dataclass(frozen=True)
class Stages:
    """Times and sizes of the images of one transaction."""

    ordered: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The known values by stage (the names in `STAGES`), in ascending order."""
    bytes: int = 0
    store_s: float = 0.0

    def in_short(self) -> dict[str, Any]:
        """For people: median and maximum of each stage that at least one image reached."""
        short: dict[str, Any] = {}
        for name, values in self.ordered.items():
            if values:
                in_ms = name.endswith("_s")
                key = f"{name[:-2]}_ms" if in_ms else name
                median, largest = values[len(values) // 2], values[-1]
                show = to_ms if in_ms else int
                short[key] = {"median": show(median), "max": show(largest)}
        return short | {"store_ms": to_ms(self.store_s), "bytes": self.bytes}


def to_ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


class Metrics:
    """Owns the counts of one worker. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histograms = {
            name: Histogram(metric.edges)
            for name, metric in METRICS.items()
            if metric.kind == "histogram"
        }
        self._images: Counter[tuple[str, ...]] = Counter()
        self._deferred_chunks = 0
        self._bytes = 0
        self._device_busy_s = 0.0

    def note_claim(self, queue_wait_s: float | None) -> None:
        if queue_wait_s is not None:
            with self._lock:
                self._histograms["resnext_queue_wait_seconds"].add([queue_wait_s])

    def note_batch(self, images: int, device_s: float) -> None:
        with self._lock:
            self._histograms["resnext_batch_images"].add([images])
            self._histograms["resnext_device_seconds"].add([device_s])
            self._device_busy_s += device_s

    def note_stored(
        self,
        outcomes: Collection[Outcome],
        counts: Mapping[tuple[str, ...], int],
        store_s: float,
    ) -> Stages:
        """Counts a transaction, and returns its times and sizes.

        Args:
            outcomes: the outcomes that it stored, and those that will be retried.
            counts: the number of images by the labels outcome and code.
            store_s: the duration of the transaction.
        """
        stages = Stages(
            ordered=order(outcomes),
            bytes=sum([outcome.provenance.bytes or 0 for outcome in outcomes]),
            store_s=store_s,
        )
        with self._lock:
            for name, histogram in _PER_IMAGE.items():
                self._histograms[histogram].add(stages.ordered.get(name, ()))
            self._histograms["resnext_store_seconds"].add([store_s])
            self._images.update(counts)
            self._deferred_chunks += counts.get(DEFERRED, 0) > 0
            self._bytes += stages.bytes
        return stages

    def read(self) -> dict[str, Histogram | Values]:
        """Returns all values at one moment, by name. The histograms are copies."""
        with self._lock:
            counts: dict[str, Histogram | Values] = {
                "resnext_images_total": dict(self._images),
                "resnext_dropped_messages_total": {(): dropped()},
                "resnext_deferred_chunks_total": {(): self._deferred_chunks},
                "resnext_bytes_total": {(): self._bytes},
                "resnext_device_busy_seconds_total": {(): self._device_busy_s},
            }
            return counts | {name: one.copy() for name, one in self._histograms.items()}


# The other `STAGES` are of whole batches, and `note_batch` counts them.
_PER_IMAGE: Final = {
    "fetch_s": "resnext_fetch_seconds",
    "decode_wait_s": "resnext_decode_wait_seconds",
    "decode_s": "resnext_decode_seconds",
    "batch_wait_s": "resnext_batch_wait_seconds",
}


def order(outcomes: Collection[Outcome]) -> dict[str, list[float]]:
    """Returns the known values by stage (the names in `STAGES`), in ascending order."""
    columns = zip_longest(*[outcome.measured for outcome in outcomes], fillvalue=UNKNOWN)
    # Columns are missing if no image reached a batch, or if there are no images.
    return {
        name: sorted([value for value in column if value >= 0.0])
        for name, column in zip(STAGES, columns, strict=False)
    }
