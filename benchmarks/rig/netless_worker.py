"""A real worker with simulated network and device: every URI gives a picture at once.

    python -m benchmarks.rig.netless_worker IMAGES_S [LOADING_S]

benchmarks/system/at_size.py and fleet.py start it with an installation's environment, for jobs
whose URIs lead nowhere. Celery, claims, batches, stores and metrics are the worker's own. The
images of a chunk arrive after LOADING_S seconds. The device comes from
benchmarks/rig/simulated_worker.py and takes time like a real one. It stops when its standard input
ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.rig.child import answer_questions
from benchmarks.rig.simulated_worker import Device
from contract.broker.connection import check_broker, make_celery
from contract.metrics.exporter import exporting
from contract.settings import load_settings
from worker.chunk.outcome import Provenance
from worker.main import serve
from worker.pool.pool import Loaded, PoolClosed
from worker.pool.verdict import CAUSES
from worker.process.celery_worker import configure_logging
from worker.process.database import connect

# The same details as for a picture from the web.
CAME = Provenance(bytes=108_000, sha256="c3" * 32, format="JPEG", width=640, height=480)
MEASURED = (0.1, 0.0, 0.003)
# So many slots that they limit nothing.
SLOTS = 100_000


class Loaders:
    """Replaces the pool of loaders."""

    restarts: Mapping[str, int] = dict.fromkeys(CAUSES, 0)

    def __init__(self, crop: int, loading_s: float = 0.0) -> None:
        """`loading_s`: for a chunk, in the thread of its task."""
        self._loading_s = loading_s
        self._pixels = np.zeros((crop, crop, 3), np.uint8)
        self._closed = threading.Event()

    def load_all(self, uris: Iterable[tuple[int, str]], done: Any, begun: Any) -> list[int]:
        if self._closed.is_set():
            raise PoolClosed
        keys = [key for key, _ in uris]
        begun(keys)
        if self._loading_s:
            time.sleep(self._loading_s)
        done(
            [
                (key, Loaded(self._pixels, CAME, owner=self, slot=key, measured=MEASURED))
                for key in keys
            ]
        )
        return []

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """Nothing to do: all slots share one picture."""

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
    loading_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    loaders = Loaders(device.spec.preprocessing.crop, loading_s)

    def listen_to_parent() -> None:
        answer_questions(device.counts)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen_to_parent, name="parent", daemon=True).start()
    with exporting(settings) as registry:
        serve(settings, engine, app, loaders, device, registry)  # type: ignore[arg-type]
    engine.dispose()


if __name__ == "__main__":
    main()
