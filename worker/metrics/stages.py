"""What a worker counts of its stages, for Prometheus (`worker.metrics.exporter`) and for Flower.

The batcher notes each batch, `worker.chunk.live_runs` each claim and each transaction: values are
added many at a time, so an image costs little and the lock is rarely taken. Nothing is counted
twice, and an image is counted once its row is in SQL.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Literal

from contract.broker.dropped import dropped
from worker.chunk.outcome import STAGES, UNKNOWN, Outcome

# From a small picture's decoding to a fetch that hangs, and a chunk that waits for a fleet.
EDGES_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
)  # fmt: skip
EDGES_IMAGES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(frozen=True)
class Metric:
    """What Prometheus is told of one metric besides its values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    edges: tuple[float, ...] = EDGES_S
    """Of a histogram: the largest value that each bucket takes."""


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(
            "resnext_images_total",
            "counter",
            "Images by what became of them: classified or failed (in SQL, for good), retried "
            "(to be tried again, so far), handed_back (the worker stopped, or its device failed), "
            "deferred (its host had no room; it comes again later). The code is the failure's.",
            labels=("outcome", "code"),
        ),
        Metric(
            "resnext_dropped_messages_total",
            "counter",
            "Messages that were dropped since no program of ours can have sent them.",
        ),
        Metric("resnext_bytes_total", "counter", "Bytes of the images' files."),
        Metric(
            "resnext_queue_wait_seconds",
            "histogram",
            "Seconds from a chunk's publication to its claim, by the database's clock.",
        ),
        Metric(
            "resnext_fetch_seconds",
            "histogram",
            "Seconds from a fetch thread's taking an image to its whole body, or its failure.",
        ),
        Metric(
            "resnext_decode_wait_seconds",
            "histogram",
            "Seconds for which an image's body waited until its loader's decoder was free.",
        ),
        Metric(
            "resnext_decode_seconds",
            "histogram",
            "Seconds in which an image was decoded, resized and cropped.",
        ),
        Metric(
            "resnext_batch_wait_seconds",
            "histogram",
            "Seconds for which a decoded image waited until its batch was started.",
        ),
        Metric(
            "resnext_batch_images",
            "histogram",
            "Images in a batch: how well batches are filled.",
            edges=EDGES_IMAGES,
        ),
        Metric(
            "resnext_device_seconds",
            "histogram",
            "Seconds from a batch's start, or the end of the one before, to its answers.",
        ),
        Metric(
            "resnext_device_busy_seconds_total",
            "counter",
            "Seconds in which the device had a batch, several at a time counted once.",
        ),
        Metric(
            "resnext_store_seconds",
            "histogram",
            "Seconds in which a chunk's images were stored, waits for the database included.",
        ),
        Metric(
            "resnext_images_in_flight",
            "gauge",
            "Images that are claimed and not stored: waiting (for a place in a loader), loading "
            "(fetch and decode), classifying (from the batcher on), settled (to be stored).",
            labels=("stage",),
        ),
        Metric("resnext_chunks_in_flight", "gauge", "Chunks with such images."),
        Metric(
            "resnext_worker_info",
            "gauge",
            "1; its labels say which worker this is in SQL, and on its page in Flower.",
            labels=("worker", "version", "device", "precision", "queue"),
        ),
    )
}


@dataclass
class Histogram:
    """Cumulative, as Prometheus wants it."""

    edges: tuple[float, ...]
    counts: list[int] = field(init=False)
    """How many values were at most each edge."""
    count: int = 0
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.edges)

    def add(self, ordered: Sequence[float]) -> None:
        """Values in ascending order, so that a bucket costs one search and a value none."""
        for n, edge in enumerate(self.edges):
            self.counts[n] += bisect_right(ordered, edge)
        self.count += len(ordered)
        self.sum += sum(ordered)


@dataclass(frozen=True)
class Stages:
    """What the images of a chunk took that were stored in one transaction."""

    ordered: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By the names of `STAGES`: the values that are known, in ascending order."""
    bytes: int = 0
    store_s: float = 0.0

    def in_short(self) -> dict[str, Any]:
        """For people: of each stage median and maximum; no entry where no image came to it."""
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


Values = Mapping[tuple[str, ...], float]
"""Of a counter or a gauge, by the values of its labels."""


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
        """
        Args:
            outcomes: what a transaction has settled, and what is to be retried.
            counts: images by outcome and code, as labels.
            store_s: what the transaction took.
        """
        stages = Stages(
            ordered=_ordered(outcomes),
            bytes=sum([outcome.provenance.bytes or 0 for outcome in outcomes]),
            store_s=store_s,
        )
        with self._lock:
            for name, histogram in _PER_IMAGE.items():
                self._histograms[histogram].add(stages.ordered.get(name, ()))
            self._histograms["resnext_store_seconds"].add([store_s])
            self._images.update(counts)
            self._bytes += stages.bytes
        return stages

    def read(self) -> dict[str, Histogram | Values]:
        """All of one moment, by name; the histograms are copies."""
        with self._lock:
            counts: dict[str, Histogram | Values] = {
                "resnext_images_total": dict(self._images),
                "resnext_dropped_messages_total": {(): dropped()},
                "resnext_bytes_total": {(): self._bytes},
                "resnext_device_busy_seconds_total": {(): self._device_busy_s},
            }
            return counts | {name: _copy(one) for name, one in self._histograms.items()}


# The rest of `STAGES` is of batches, which are noted as such.
_PER_IMAGE: Final = {
    "fetch_s": "resnext_fetch_seconds",
    "decode_wait_s": "resnext_decode_wait_seconds",
    "decode_s": "resnext_decode_seconds",
    "batch_wait_s": "resnext_batch_wait_seconds",
}


def _ordered(outcomes: Collection[Outcome]) -> dict[str, list[float]]:
    columns = zip_longest(*[outcome.measured for outcome in outcomes], fillvalue=UNKNOWN)
    # Where no image came to a batch, or there is none at all, columns are missing.
    return {
        name: sorted([value for value in column if value >= 0.0])
        for name, column in zip(STAGES, columns, strict=False)
    }


def _copy(histogram: Histogram) -> Histogram:
    copied = Histogram(histogram.edges, count=histogram.count, sum=histogram.sum)
    copied.counts = histogram.counts.copy()
    return copied
