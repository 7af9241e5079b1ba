"""A worker process whose loaders and classifier do what URIs say.

The tests run `python -m tests.doubles.worker`; settings come from the environment. Arguments:

    watched       with a supervisor, as `resnextq worker` has
    cuda          with the real classifier on a double of a GPU: there, `break` is a sticky
                  error, and `hold` a device that hangs
    abort         with `cuda`: a sticky error ends the process once it is noticed
    older         a worker of an older version, which does not know images that run alone
    faulty-claim  claiming fails if the URI of an image ends in `planted`
    faulty-store  storing fails if the URI of an image ends in `planted`

A URI is `double:` and one of the words below. `submit` refuses that scheme, so its URIs are
http://double.example/ and have slashes instead of colons:

    ok            a picture, at once
    hang          never loads
    after:FILE    a picture, once the file exists
    fail:CODE     that failure
    break:FILE    a picture on which the classifier fails while the file exists
    crash:SIGNAL  a picture at which the classifier ends the process: SIGSEGV, …
    odd           a picture whose size is not the network's, so no batch takes it
    hold:FILE     a picture whose batch the classifier holds until the file exists; it makes
                  FILE.held when it has the batch
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np

from contract.broker import message
from contract.broker.connection import check_broker, make_celery
from contract.failure import Failure
from contract.metrics.exporter import exporting
from contract.settings import Settings, load_settings
from tests.doubles.classifier import CROP, Classifier
from worker import main
from worker.chunk import claim, store
from worker.chunk.outcome import Provenance
from worker.pool.pool import Load, Loaded, LoadFailed, PoolClosed
from worker.process.celery_worker import configure_logging
from worker.process.database import connect
from worker.process.supervisor import watched

WEB = "http://double.example/"
BYTES = 1000
SLOTS = 1000
POLL_S = 0.01
HUNG_AFTER_S = 0.5
held: SimpleQueue[Path] = SimpleQueue()
breaking: SimpleQueue[Path] = SimpleQueue()
crashing: SimpleQueue[str] = SimpleQueue()


def await_file(path: Path) -> None:
    while not path.exists():
        time.sleep(POLL_S)


def picture(side: int = CROP) -> Loaded:
    pixels = np.full((side, side, 3), 7, np.uint8)
    came = Provenance(sha256="d" * 64, bytes=BYTES)
    return Loaded(pixels, came, Home(), slot=0, measured=(0.25, 0.0, 0.002))


class Home:
    def take_back(self, _: Any) -> None:
        pass


class Loaders:
    def __init__(self) -> None:
        self._closed = threading.Event()
        self.restarts: dict[str, int] = {}

    def load_all(self, uris: list[tuple[int, str]], done: Any, begun: Any) -> list[int]:
        for position, uri in uris:
            if self._closed.is_set():
                raise PoolClosed
            if uri.startswith(WEB):
                uri = uri.removeprefix(WEB).replace("/", ":")  # noqa: PLW2901
            what, _, rest = uri.removeprefix("double:").partition(":")
            if what != "hang":
                self._begin(what, rest, partial(self._answer, position, done))
            begun([position])
        return []

    def _begin(self, *what: Any) -> None:
        threading.Thread(target=self._load, args=what, daemon=True).start()

    def _answer(self, position: int, done: Any, load: Load) -> None:
        done([(position, load)])

    def _load(self, what: str, rest: str, done: Any) -> None:
        if what == "fail":
            code = rest.partition(":")[0]
            done(LoadFailed(Failure(code), Provenance(), (0.75, -1.0, -1.0)))
            return
        if what == "after":
            await_file(Path(rest))
        if what == "hold":
            held.put(Path(rest))
        if what == "break":
            breaking.put(Path(rest))
        if what == "crash":
            crashing.put(rest)
        done(picture(CROP + 1 if what == "odd" else CROP))

    def free_slots(self) -> int:
        return SLOTS

    def stop_accepting(self) -> None:
        self._closed.set()


def cuda_classifier() -> Any:
    """Returns the real classifier on a double.

    Once the device is broken, freeing pinned memory ends the process, as with CUDA.
    """
    from tests.doubles.cuda import Cuda, make_classifier

    cuda, launched = Cuda(), threading.Event()

    def follow_script() -> None:
        """Runs while a batch is computed, which is when kernel errors appear."""
        if not launched.is_set():
            return
        launched.clear()
        while not held.empty():
            held.get().with_suffix(".held").touch()
            cuda.hangs = True
        while not breaking.empty():
            if breaking.get().exists():
                cuda.break_down()

    cuda.on_replay = launched.set
    cuda.on_wait = follow_script
    cuda.when_pinned_is_freed = lambda: os.abort() if cuda.broken else None
    cuda.install(setattr)
    classifier = make_classifier(cuda)
    classifier.warm_up()
    return classifier


class ScriptedClassifier(Classifier):
    def classify(self, images: np.ndarray) -> SimpleNamespace:
        if not crashing.empty():
            # To this thread: a signal to the process might arrive after the batch is done.
            signal.pthread_kill(threading.get_ident(), signal.Signals[crashing.get()])
        while not held.empty():
            path = held.get()
            path.with_suffix(".held").touch()
            await_file(path)
        while not breaking.empty():
            if breaking.get().exists():
                raise RuntimeError("device fell off")
        return super().classify(images)


def plant(module: Any, name: str, uris_of: Any) -> None:
    """Makes the function fail if one of its URIs ends in `planted`."""
    sound = getattr(module, name)

    def faulty(*arguments: Any) -> Any:
        if any(uri.endswith("planted") for uri in uris_of(*arguments)):
            raise ZeroDivisionError("planted")
        return sound(*arguments)

    setattr(module, name, faulty)


def _uris_of_rows(claimed: claim.Claim, _: Any, outcomes: Any) -> list[str]:
    return [claimed.images[position].uri for position in outcomes]


def start() -> None:
    settings = load_settings()
    configure_logging(settings)
    if "older" in sys.argv:
        message.READ_VERSIONS = (message.MESSAGE_VERSION,)  # type: ignore[misc]
    if "faulty-claim" in sys.argv:
        plant(claim, "_claimed", lambda _, row: row.uris)
    if "faulty-store" in sys.argv:
        plant(store, "make_rows", _uris_of_rows)
    if "cuda" in sys.argv:
        main.Batcher = partial(main.Batcher, hung_after_s=HUNG_AFTER_S)  # type: ignore[misc]
    if "abort" in sys.argv:
        main.Shutdown.stop = lambda *_: os.abort()  # type: ignore[method-assign]
    if "watched" in sys.argv:
        watched(settings, lambda name: run(settings, name))
    else:
        run(settings)


def run(settings: Settings, name: str | None = None) -> None:
    engine = connect(settings)
    app = make_celery(settings)
    check_broker(app)
    classifier = cuda_classifier() if "cuda" in sys.argv else ScriptedClassifier()
    with exporting(settings) as registry:
        main.serve(settings, engine, app, Loaders(), classifier, registry, name=name)


if __name__ == "__main__":
    start()
