"""A real worker whose network and device are simulated: every URI gives a picture at once.

    python -m benchmarks.rig.netless_worker IMAGES_S

Started by benchmarks/system/at_size.py with the environment of an installation, for jobs whose
URIs lead nowhere. Celery, claims, batches and stores are the worker's own; the device is the one
of benchmarks/rig/simulated_worker.py, which takes its time. It stops when its standard input ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.rig.child import answer_questions
from benchmarks.rig.simulated_worker import Device
from contract.broker.connection import check_broker, make_celery
from contract.settings import load_settings
from worker.chunk.outcome import Provenance
from worker.main import serve
from worker.pool.pool import Loaded, PoolClosed
from worker.process.celery_worker import configure_logging
from worker.process.database import connect

# As much as a picture of the web says of itself.
CAME = Provenance(bytes=108_000, sha256="c3" * 32, format="JPEG", width=640, height=480)
MEASURED = (0.1, 0.0, 0.003)
# So many that they hold back nothing.
SLOTS = 100_000


class Loaders:
    """What the task takes for a pool of loaders."""

    def __init__(self, crop: int) -> None:
        self._pixels = np.zeros((crop, crop, 3), np.uint8)
        self._closed = threading.Event()

    def load_all(self, uris: Iterable[tuple[int, str]], done: Any, begun: Any) -> list[int]:
        if self._closed.is_set():
            raise PoolClosed
        keys = [key for key, _ in uris]
        begun(keys)
        done(
            [
                (key, Loaded(self._pixels, CAME, owner=self, slot=key, measured=MEASURED))
                for key in keys
            ]
        )
        return []

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """All of them share one picture."""

    def free_slots(self) -> int:
        return SLOTS

    def stop_accepting(self) -> None:
        self._closed.set()


def main() -> None:
    settings = load_settings()
    configure_logging(settings)
    device = Device(settings, float(sys.argv[1]))
    engine = connect(settings)
    app = make_celery(settings)
    check_broker(app)
    loaders = Loaders(device.spec.preprocessing.crop)

    def listen_to_parent() -> None:
        answer_questions(device.counts)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen_to_parent, name="parent", daemon=True).start()
    serve(settings, engine, app, loaders, device, CollectorRegistry())  # type: ignore[arg-type]
    engine.dispose()


if __name__ == "__main__":
    main()
