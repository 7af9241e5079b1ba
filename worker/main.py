"""The worker's main process: builds every part once, and runs them until a signal arrives.

It first connects to the database and the broker and opens the metrics' port, so that mistakes are
reported before it loads weights. The loaders' processes start before anything uses CUDA.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from celery import Celery
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from contract.broker.connection import check_broker, make_celery
from contract.database.waits import Database
from contract.errors import ResnextQueueError
from contract.flow import FIRST_CHUNK_IMAGES
from contract.log import name_worker
from contract.metrics.exporter import exporting
from contract.models import title_of
from contract.process_name import name_process
from contract.settings import Settings
from worker.batch.batcher import Batcher
from worker.batch.model import find_model, load_classifier
from worker.chunk.live_runs import Runs
from worker.chunk.prefetch import InFlight
from worker.chunk.store import Store
from worker.chunk.stragglers import Stragglers
from worker.chunk.task import ChunkTask, register_task
from worker.loader.sandbox.prctl import PR_SET_DUMPABLE, prctl
from worker.loader.sandbox.protections import tell_protections
from worker.metrics.exporter import WorkerCollector
from worker.metrics.stages import Metrics
from worker.pool.host_rate import HostRate
from worker.pool.limits import naming_limits
from worker.pool.pool import LoaderPool
from worker.process.cause import device_fault
from worker.process.celery_worker import CeleryWorker, configure_logging
from worker.process.database import connect
from worker.process.heartbeat import Presence
from worker.process.identity import Identity, register
from worker.process.node_name import NodeName
from worker.process.shutdown import Shutdown
from worker.process.task_events import tell_failures
from worker.thumbnail.thumbnails import Thumbnails

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Classifier

log = logging.getLogger(__name__)

FAILED: Final = 1  # Celery's exit status; the command exits with the status of its error
# Each image creates objects that live as long as its chunk. With Python's default thresholds the
# garbage collector visits all of them again and again and finds nothing.
COLLECT_AFTER: Final = (50_000, 20, 50)


def run_worker(settings: Settings, name: str | None = None) -> None:
    """Runs a worker, and returns after a clean stop. `name` is its name from the supervisor.

    Raises:
        UnavailableError: the database, the broker or the weights are missing or do not fit, the
            metrics' port is taken, or the loaders lack protections that `RESNEXT_SANDBOX` requires.
        UsageError: there is no such model or device.
    """
    # A decoder that was taken over runs as the same user. It could otherwise read the passwords in
    # /proc.
    prctl(PR_SET_DUMPABLE, 0)
    configure_logging(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until `Shutdown` installs its own handlers
    engine = connect(settings)
    app = make_celery(settings)
    check_broker(app)
    with exporting(settings) as registry:
        loaders = LoaderPool(
            settings, find_model(settings).preprocessing, rate=_host_rate(settings, app)
        )
        try:
            with naming_limits():
                loaders.start()
                tell_protections(settings)
                classifier = load_classifier(settings)
                serve(settings, engine, app, loaders, classifier, registry, name=name)
        finally:
            loaders.close()
            engine.dispose()


def _host_rate(settings: Settings, app: Celery) -> HostRate | None:
    if settings.host_images_per_s is None:
        return None
    return HostRate(app, settings.host_images_per_s)


def _leave(*_: object) -> None:
    sys.exit(0)


def serve(  # noqa: PLR0913, PLR0917  (each part is built once, above)
    settings: Settings,
    engine: Engine,
    app: Celery,
    loaders: LoaderPool,
    classifier: Classifier,
    registry: CollectorRegistry,
    *,
    name: str | None = None,
) -> None:
    """Runs chunks until a signal arrives, then finishes the images on the device and hands back the
    rest. The caller closes `loaders` and `engine`. `name` is the worker's name, if a supervisor has
    given it one.

    If the device is broken or hangs, the process ends here with status 1.

    Raises:
        ResnextQueueError: Celery stopped by itself; the log says why.
    """
    parts = build(
        settings,
        engine,
        loaders,
        classifier,
        when_broken=lambda: _end_broken(parts.batcher, shutdown),
        name=name,
    )
    shutdown = Shutdown(parts.drain, within_s=settings.stop_within_s)
    tell_failures(app)
    register_task(app, parts.task)
    node = NodeName(parts.identity.device)
    registry.register(
        WorkerCollector(
            parts.metrics,
            parts.runs,
            parts.identity,
            loader_restarts=lambda: loaders.restarts,
            device_memory=lambda: classifier.device_memory,
        )
    )
    celery = CeleryWorker(
        app,
        settings,
        node=node.name,
        worker=parts.identity.worker,
        queue=parts.identity.queue,
        shutdown=shutdown,
        wanted_chunks=parts.in_flight.wanted_chunks,
        when_ready=lambda: _say_ready(classifier, parts.identity),
    )
    _collect_seldom()
    with closing(node), parts.running():
        celery.start()
    if parts.batcher.broken is not None:
        log.error("The worker ends, and its chunks are handed back: %s", parts.batcher.broken)
        logging.shutdown()
        # If the device is broken or hangs, a normal exit may crash or hang as well.
        os._exit(FAILED)
    if celery.exitcode:
        raise ResnextQueueError("The worker stopped by itself; the lines above say why.")
    log.info("Stopped. The worker holds no images any more.")


def _collect_seldom() -> None:
    """Takes all present objects out of garbage collection, because they live until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _end_broken(batcher: Batcher, shutdown: Shutdown) -> None:
    """Notes the cause first: if the device now crashes this process, no image is to blame."""
    device_fault.note(batcher.broken or "")
    shutdown.stop(FAILED)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a worker, except Celery."""

    identity: Identity
    loaders: LoaderPool
    batcher: Batcher
    runs: Runs
    stragglers: Stragglers
    thumbnails: Thumbnails
    presence: Presence
    metrics: Metrics
    task: ChunkTask
    in_flight: InFlight

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts the parts in the order in which they depend on each other, and stops them."""
        with ExitStack() as ending:  # stops them in reverse order
            self.presence.start()
            ending.callback(self.presence.close)
            self.thumbnails.start()
            ending.callback(self.thumbnails.close)
            self.batcher.start()
            ending.callback(self.batcher.close)
            self.stragglers.start()
            ending.callback(self.stragglers.close)
            ending.callback(self.drain)
            yield

    def drain(self) -> None:
        """Begins no more images. May be called twice."""
        self.presence.announce_stop()
        self.runs.drain()
        self.loaders.stop_accepting()


def build(  # noqa: PLR0913  (the same)
    settings: Settings,
    engine: Engine,
    loaders: LoaderPool,
    classifier: Classifier,
    *,
    when_broken: Callable[[], object],
    name: str | None = None,
) -> Parts:
    """Registers the worker's model and connects the parts. Starts nothing."""
    database = Database(engine)
    identity = register(database, settings, classifier, name or name_process())
    name_worker(identity.worker)
    store = Store(
        database,
        identity,
        max_attempts=settings.max_attempts,
        retry_backoff_s=settings.retry_backoff_s,
    )
    thumbnails = Thumbnails(
        database, wanted=settings.thumbnails, classes=len(classifier.spec.categories)
    )
    metrics = Metrics()
    runs = Runs(
        store,
        chunk_images=settings.chunk_images or FIRST_CHUNK_IMAGES,
        metrics=metrics,
        when_stored=thumbnails.stored,
        when_left=thumbnails.left,
    )
    stragglers = Stragglers(runs)
    batcher = Batcher(
        classifier,
        max_wait_s=settings.max_batch_wait_ms / 1000,
        when_broken=when_broken,
        look=thumbnails.look,
        metrics=metrics,
    )
    presence = Presence(
        database,
        identity,
        lease_s=settings.lease_s,
        images_per_s=lambda: batcher.images_per_s,
        after_beat=runs.put_back_orphans,
    )
    task = ChunkTask(
        database=database,
        identity=identity,
        loaders=loaders,
        batcher=batcher,
        runs=runs,
        stragglers=stragglers,
        patience_s=settings.chunk_patience_s,
        sampled=thumbnails.sampled,
    )
    in_flight = InFlight(
        in_flight_s=settings.in_flight_s,
        most_chunks=settings.chunks_in_flight,
        batch_images=classifier.batch_images,
        images_per_s=lambda: batcher.images_per_s,
        images_per_chunk=lambda: runs.images_per_chunk,
        in_hand=runs.in_hand,
        free_slots=loaders.free_slots,
    )
    return Parts(
        identity=identity,
        loaders=loaders,
        batcher=batcher,
        runs=runs,
        stragglers=stragglers,
        thumbnails=thumbnails,
        presence=presence,
        metrics=metrics,
        task=task,
        in_flight=in_flight,
    )


def _say_ready(classifier: Classifier, identity: Identity) -> None:
    log.info(
        "ready: model %s (licence of the weights: %s), device %s, precision %s, %s, batch %d, "
        "queue %s",
        title_of(classifier.model, classifier.weights),
        classifier.licence,
        classifier.device,
        classifier.precision,
        classifier.engine,
        classifier.batch_images,
        identity.queue,
    )
