"""The task: from a message to rows in SQL, in one of the worker's task threads.

Claim, load every image, wait, store. The loaders and the batcher settle the images meanwhile;
what still loads after `chunk_patience_s` is left to the straggler keeper. Celery acknowledges
the message when the task returns, so never before its rows are committed.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, Final, NoReturn

from celery import Celery
from celery.exceptions import Reject

from contract.broker.dropped import drop
from contract.broker.message import TASK_NAME, ChunkMessage, MalformedMessage, UnknownMessageVersion
from contract.database.waits import Database
from worker.batch.batcher import Batcher
from worker.chunk.claim import Claim, Image, begin_alone, claim
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Outcome
from worker.chunk.run import ChunkRun
from worker.chunk.store import Stored
from worker.chunk.stragglers import Stragglers
from worker.metrics.stages import to_ms
from worker.pool.pool import Load, Loaded, LoaderPool, LoadFailed, PoolClosed, release
from worker.process.identity import Identity

log = logging.getLogger(__name__)

# A message that goes back to the queue comes again at once where no other worker takes it.
UNKNOWN_VERSION_PAUSE_S: Final = 10.0
# By then Celery has noticed that it is to stop, and takes no message any more.
STOPPING_PAUSE_S: Final = 2.0


class ChunkTask:
    """What a task does, and the parts that it does it with. Safe for many threads."""

    def __init__(  # noqa: PLR0913  (each part is built once, in worker.main)
        self,
        *,
        database: Database,
        identity: Identity,
        loaders: LoaderPool,
        batcher: Batcher,
        runs: Runs,
        stragglers: Stragglers,
        patience_s: float,
    ) -> None:
        self._database = database
        self._identity = identity
        self._loaders = loaders
        self._batcher = batcher
        self._runs = runs
        self._stragglers = stragglers
        self._patience_s = patience_s

    def classify_chunk(self, fields: dict[str, Any]) -> dict[str, Any] | str:
        """Runs a message's chunk; returns the summary that Flower shows.

        Raises:
            Reject: the message goes back to the queue, for another worker.
        """
        if self._runs.stopping.is_set():
            time.sleep(STOPPING_PAUSE_S)
            raise Reject("this worker is stopping", requeue=True)
        try:
            message = ChunkMessage.decode(fields)
        except UnknownMessageVersion as unknown:
            self._leave_to_newer(unknown)
        except MalformedMessage as malformed:
            drop(malformed)
            return f"dropped: {malformed}"
        with self._runs.claiming(message.fence):
            try:
                claimed = self._claim_alone(message) if message.alone else self._claim(message)
            except MalformedMessage as malformed:
                drop(malformed)
                return f"dropped: {malformed}"
            except Exception as fault:  # noqa: BLE001  (whatever it is, the chunk is not lost)
                self._runs.fail_claim(message, fault)
                return f"a fault of this program: {type(fault).__name__}"
            if claimed is None:
                return "dropped: not to be claimed"
            run = ChunkRun(claimed)
            self._runs.enter(run)
        return self._run(run)

    def _claim(self, message: ChunkMessage) -> Claim | None:
        """Waits first while an image runs alone, which might end this worker: what is claimed
        then would have a part in its death.
        """
        self._runs.gate.enter()
        claimed = None
        try:
            claimed = claim(self._database, self._identity, message)
        finally:
            if claimed is None:
                self._runs.gate.leave()
        return claimed

    def _claim_alone(self, message: ChunkMessage) -> Claim | None:
        """Claims first, since the chunk would be taken for lost while the others end. A worker
        that stops waits for nothing, and hands it back.
        """
        claimed = claim(self._database, self._identity, message)
        if claimed is None:
            return None
        self._runs.gate.enter_alone()
        try:
            if not self._runs.stopping.is_set():
                begin_alone(self._database, self._identity, claimed)
        except BaseException:
            self._runs.gate.leave()
            raise
        return claimed

    def _leave_to_newer(self, unknown: UnknownMessageVersion) -> NoReturn:
        log.error(
            "%s. It goes back to the queue for a newer worker in %.0f s.",
            unknown,
            UNKNOWN_VERSION_PAUSE_S,
        )
        self._runs.stopping.wait(UNKNOWN_VERSION_PAUSE_S)
        raise Reject(str(unknown), requeue=True) from unknown

    def _run(self, run: ChunkRun) -> dict[str, Any] | str:
        try:
            self._load(run)
            run.wait_until_settled(self._patience_s)
            stored = self._runs.store(run)
        except Exception as fault:  # noqa: BLE001  (whatever it is, the chunk is not lost)
            self._runs.fail(run, fault)
            return f"a fault of this program: {type(fault).__name__}"
        if stored is None:
            return "dropped: another run has the chunk"
        if stored.loading:
            self._stragglers.keep(run)
        return _summary(run, stored)

    def _load(self, run: ChunkRun) -> None:
        """Blocks while no loader has a free slot: this is what holds back the messages. What
        its host has no room for is tried again as long as patience lasts, and then deferred.
        """
        try:
            refused = self._begin(run, run.claim.images)
            since = time.monotonic()
            while refused and (left_s := since + self._patience_s - time.monotonic()) > 0:
                self._loaders.await_room([image.uri for image in refused.values()], left_s)
                refused = self._begin(run, refused, since)
            run.defer(refused)
        except PoolClosed:
            run.drain()

    def _begin(
        self, run: ChunkRun, images: dict[int, Image], since: float | None = None
    ) -> dict[int, Image]:
        """Gives them to the loaders; returns those whose hosts have no room for them."""
        refused = self._loaders.load_all(
            [(position, image.uri) for position, image in images.items()],
            partial(self._take_in, run),
            partial(run.begin_loading, since=since),
        )
        return {position: images[position] for position in refused}

    def _take_in(self, run: ChunkRun, loads: list[tuple[int, Load]]) -> None:
        """Called by the pool's threads; each image comes once."""
        loaded = [(position, load) for position, load in loads if isinstance(load, Loaded)]
        if loaded and run.begin_classifying([position for position, _ in loaded]):
            self._batcher.put(run, loaded)
        elif loaded:
            release([load for _, load in loaded])
        if len(loaded) < len(loads):
            run.settle(
                {
                    position: Outcome(load.failure, load.provenance, load.measured)
                    for position, load in loads
                    if isinstance(load, LoadFailed)
                }
            )


def _summary(run: ChunkRun, stored: Stored) -> dict[str, Any]:
    """What is shown of a run, in Flower and in the log."""
    settled = stored.classified + sum(stored.failed.values())
    summary: dict[str, Any] = {
        "images": len(run.claim.images),
        "classified": stored.classified,
        "failed": stored.failed,
        "retried": stored.retried,
        "loading": stored.loading,
        "handed_back": stored.handed_back,
        "deferred": stored.deferred,
        "images_per_s": round(settled / (time.monotonic() - run.began_at), 1),
    }
    if run.claim.queue_wait_s is not None:
        summary["queue_wait_ms"] = to_ms(run.claim.queue_wait_s)
    summary |= stored.stages.in_short()
    words = (f"{key}={_in_a_word(value)}" for key, value in summary.items())
    log.info("%s: %s", run.claim, " ".join(words))
    return summary


def _in_a_word(value: object) -> str:
    """A stage as `median/max`."""
    match value:
        case {"median": median, "max": largest}:
            return f"{median}/{largest}"
    return str(value)


class Shown:
    """A task's answer, as Celery shows it: it has no text of its own for an object, and makes that
    of a dict by itself, piece by piece, in a time in which Python would make twenty.
    """

    def __init__(self, answer: dict[str, Any] | str) -> None:
        self.answer = answer

    def __repr__(self) -> str:
        return repr(self.answer)


def register_task(app: Celery, task: ChunkTask) -> None:
    """Makes `task` what the app does with our messages."""

    @app.task(name=TASK_NAME, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def classify_chunk(*_: object, **fields: Any) -> Shown:  # noqa: ANN401  (JSON)
        return Shown(task.classify_chunk(fields))
