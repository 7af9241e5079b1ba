"""A real worker with a simulated device, which takes time but computes nothing.

    python -m benchmarks.rig.simulated_worker IMAGES_S     (0: it takes no time)

benchmarks/pipeline.py starts it with an installation's environment. It answers each line `{}` of
its standard input with its device's work and this process's CPU time, by part. When standard input
ends, it stops like a worker that gets SIGTERM.

The device behaves like a GPU: a batch begins when the previous one is done, the caller does not
wait, and each image takes the same time, however full the batches are.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

import worker.batch.batcher
import worker.chunk.task
from benchmarks.rig.child import answer_questions
from contract.broker.connection import check_broker, make_celery
from contract.settings import BATCH_IMAGES, Settings, load_settings
from worker.batch.model import find_model
from worker.chunk.store import Store
from worker.chunk.task import ChunkTask
from worker.main import serve
from worker.pool.pool import LoaderPool
from worker.process.celery_worker import configure_logging
from worker.process.database import connect

TOP = 5
THUMBNAILS = "thumbnails"
# The part of the worker that a thread belongs to, by the start of the thread's name.
PARTS = {
    "MainThread": "Celery",
    "ThreadPoolExecutor": "Celery",
    "loader-": "hand-over",
    "decode-watch": "hand-over",
    "batcher": "batching",
    "stragglers": "SQL",
    "thumbnails": THUMBNAILS,
    "presence": "SQL",
}
REST = "the rest"
GATHER = "gather"
"""Pixels copied into the classifier's memory: the model's input."""


class Device:
    """Replaces the classifier for the batcher."""

    licence, engine, device, precision = "none", "eager", "simulated", "fp32"
    weights_sha256 = "0" * 64
    overwrites = 0
    device_memory: Mapping[str, int] = MappingProxyType({})

    def __init__(self, settings: Settings, images_s: float) -> None:
        self.spec = find_model(settings)
        self.model, self.weights = settings.model, settings.weights
        self.batch_images = settings.batch_images or BATCH_IMAGES
        self._images_s = images_s
        self._images = self._batches = 0
        self._promised_s = 0.0
        self._done_at = 0.0
        classes = len(self.spec.categories)
        # Every class in turn, however full the batches are.
        first = np.arange(classes + self.batch_images)[:, None]
        self._class_ids = (first + np.arange(TOP)) % classes
        self._scores = np.full((self.batch_images, TOP), 1 / TOP, np.float32)
        self._finite = np.ones(self.batch_images, bool)
        crop = self.spec.preprocessing.crop
        self._room = np.zeros((self.batch_images, crop, crop, 3), np.uint8)

    def room(self) -> np.ndarray:
        return self._room

    def start(self, images: np.ndarray) -> SimpleNamespace:
        n = len(images)
        at = self._images % len(self.spec.categories)
        self._images += n
        self._batches += 1
        if self._images_s:
            self._promised_s += n / self._images_s
            self._done_at = max(self._done_at, time.monotonic()) + n / self._images_s
        done_at = self._done_at
        found = SimpleNamespace(
            class_ids=self._class_ids[at : at + n],
            scores=self._scores[:n],
            finite=self._finite[:n],
        )

        def result() -> SimpleNamespace:
            time.sleep(max(0.0, done_at - time.monotonic()))
            return found

        return SimpleNamespace(is_done=lambda: time.monotonic() >= done_at, result=result)

    def counts(self) -> dict[str, Any]:
        now = time.monotonic()
        busy_s = self._promised_s - max(0.0, self._done_at - now)
        return {"at": now, "images": self._images, "batches": self._batches, "busy_s": busy_s}


class Ledger:
    """CPU time by part: each thread's time, minus its work for other parts."""

    def __init__(self, threads: Mapping[str, str] = PARTS) -> None:
        """`threads`: the part of each thread, by the start of its name; all others are `REST`."""
        self._threads = threads
        self._moved_s: Counter[str] = Counter()
        self._lock = threading.Lock()

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Counts `work` under this part, whichever thread does it. It is for work per chunk or
        batch, not per image.
        """

        def timing(*arguments: Any, **options: Any) -> Any:
            began_s = time.thread_time()
            try:
                return work(*arguments, **options)
            finally:
                self._move(part, time.thread_time() - began_s)

        return timing

    def _move(self, part: str, seconds: float) -> None:
        with self._lock:
            self._moved_s[part] += seconds
            self._moved_s[self._part_of(threading.current_thread())] -= seconds

    def cpu_s(self) -> dict[str, float]:
        """CPU time of this process since its start."""
        with self._lock:
            by_part = Counter(self._moved_s)
        for thread in threading.enumerate():
            spent_s = _cpu_s(thread)
            by_part[self._part_of(thread)] += spent_s
            by_part[REST] -= spent_s
        by_part[REST] += time.process_time()
        return dict(by_part)

    def _part_of(self, thread: threading.Thread) -> str:
        parts = (part for name, part in self._threads.items() if thread.name.startswith(name))
        return next(parts, REST)


def _cpu_s(thread: threading.Thread) -> float:
    """Reads Linux's schedstat, whose first number is nanoseconds on a CPU."""
    try:
        stats = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
    except OSError:  # the thread has ended
        return 0.0
    return int(stats.split()[0]) / 1e9


def _switches() -> int:
    """Context switches from this process's threads to other threads or processes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_nvcsw + used.ru_nivcsw


def main() -> None:
    settings = load_settings()
    configure_logging(settings)
    device, ledger = Device(settings, float(sys.argv[1])), Ledger()
    worker.chunk.task.claim = ledger.timed("SQL", worker.chunk.task.claim)
    Store.store = ledger.timed("SQL", Store.store)  # type: ignore[method-assign]
    ChunkTask._load = ledger.timed("hand-over", ChunkTask._load)  # type: ignore[method-assign]
    worker.batch.batcher._gather = ledger.timed(GATHER, worker.batch.batcher._gather)

    def listen_to_parent() -> None:
        answer_questions(
            lambda: device.counts() | {"cpu_s": ledger.cpu_s(), "switches": _switches()}
        )
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen_to_parent, name="parent", daemon=True).start()
    run(settings, device)


def run(settings: Settings, device: Device) -> None:
    """Runs like `worker.main.run_worker`, except for the device."""
    engine = connect(settings)
    app = make_celery(settings)
    check_broker(app)
    loaders = LoaderPool(settings, device.spec.preprocessing)
    loaders.start()
    try:
        serve(settings, engine, app, loaders, device, CollectorRegistry())  # type: ignore[arg-type]
    finally:
        loaders.close()
        engine.dispose()


if __name__ == "__main__":
    main()
