"""A real worker whose device is simulated: it takes its time and computes nothing.

    python -m benchmarks.rig.simulated_worker IMAGES_S     (0: it takes no time)

Started by benchmarks/pipeline.py with the environment of an installation. It answers each line
`{}` of its standard input with what its device has done and the CPU time of this process, by
part; when standard input ends it stops like a worker that gets SIGTERM.

The device is like a GPU: a batch is begun when the one before is done, the caller waits for none,
and an image takes its part of a second, however the batches are filled.
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
from types import SimpleNamespace
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
# The part of the worker that a thread's CPU time belongs to, by the beginning of its name.
PARTS = {
    "MainThread": "Celery",
    "ThreadPoolExecutor": "Celery",
    "loader-": "hand-over",
    "decode-watch": "hand-over",
    "batcher": "batching",
    "stragglers": "SQL",
    "presence": "SQL",
}
REST = "the rest"
GATHER = "gather"
"""Pixels copied into the classifier's memory: the model's input."""


class Device:
    """What the batcher takes for a classifier."""

    licence, engine, device, precision = "none", "eager", "simulated", "fp32"
    weights_sha256 = "0" * 64

    def __init__(self, settings: Settings, images_s: float) -> None:
        self.spec = find_model(settings)
        self.model, self.weights = settings.model, settings.weights
        self.batch_images = settings.batch_images or BATCH_IMAGES
        self._images_s = images_s
        self._images = self._batches = 0
        self._promised_s = 0.0
        self._done_at = 0.0
        self._class_ids = np.tile(np.arange(TOP), (self.batch_images, 1))
        self._scores = np.full((self.batch_images, TOP), 1 / TOP, np.float32)
        self._finite = np.ones(self.batch_images, bool)
        crop = self.spec.preprocessing.crop
        self._room = np.zeros((self.batch_images, crop, crop, 3), np.uint8)

    def room(self) -> np.ndarray:
        return self._room

    def start(self, images: np.ndarray) -> SimpleNamespace:
        n = len(images)
        self._images += n
        self._batches += 1
        if self._images_s:
            self._promised_s += n / self._images_s
            self._done_at = max(self._done_at, time.monotonic()) + n / self._images_s
        done_at = self._done_at
        found = SimpleNamespace(
            class_ids=self._class_ids[:n], scores=self._scores[:n], finite=self._finite[:n]
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
    """CPU time by part: each thread's, less what it did for another part."""

    def __init__(self, threads: Mapping[str, str] = PARTS) -> None:
        """`threads`: the part of each thread, by the beginning of its name; of others `REST`."""
        self._threads = threads
        self._moved_s: Counter[str] = Counter()
        self._lock = threading.Lock()

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, whichever thread does it, is booked to this part; once a chunk or batch, not an
        image.
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
        """Of this process since its start."""
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
    """From sched-stats of Linux: nanoseconds on a CPU, and others."""
    try:
        stats = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
    except OSError:  # it has ended
        return 0.0
    return int(stats.split()[0]) / 1e9


def _switches() -> int:
    """From one thread of this process to another one, or to another process."""
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
    """As `worker.main.run_worker`, but for the device."""
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
