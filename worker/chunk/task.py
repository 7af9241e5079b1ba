"""The task: from a message to rows in SQL, in one of the worker's task threads.

It claims the chunk, loads its images, waits and stores. The loaders and the batcher report the
outcomes. Images that still load after `chunk_patience_s` are left to `Stragglers`. Celery
acknowledges the message when the task returns, so never before its rows are committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from celery import Celery
from celery.exceptions import Reject

from contract.broker.dropped import drop
from contract.broker.message import TASK_NAME, ChunkMessage, MalformedMessage, UnknownMessageVersion
from contract.database.waits import Database
from contract.log import log_about
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

# If no other worker takes a requeued message, it comes back at once. So wait before the requeue.
UNKNOWN_VERSION_PAUSE_S: Final = 10.0
# After this time Celery has noticed that it must stop, and takes no more messages.
STOPPING_PAUSE_S: Final = 2.0


class ChunkTask:
    """The work of a task, with the parts that it needs. Safe for many threads."""

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
        sampled: Callable[[Claim], frozenset[int]],
    ) -> None:
        """`sampled` returns the positions of a claim that are in its job's sample."""
        self._database = database
        self._identity = identity
        self._loaders = loaders
        self._batcher = batcher
        self._runs = runs
        self._stragglers = stragglers
        self._patience_s = patience_s
        self._sampled = sampled

    def classify_chunk(self, fields: dict[str, Any]) -> dict[str, Any] | str:
        """Runs a message's chunk, and returns the summary that Flower shows.

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
        with log_about(**message.logged):
            return self._claim_and_run(message)

    def _claim_and_run(self, message: ChunkMessage) -> dict[str, Any] | str:
        with self._runs.claiming(message.fence):
            try:
                claimed = self._claim_alone(message) if message.alone else self._claim(message)
            except MalformedMessage as malformed:
                drop(malformed)
                return f"dropped: {malformed}"
            except Exception as fault:  # noqa: BLE001  (after any error the chunk is not lost)
                self._runs.fail_claim(message, fault)
                return f"an error in this program: {type(fault).__name__}"
            if claimed is None:
                return "dropped: cannot be claimed"
            run = ChunkRun(claimed, sampled=self._sampled(claimed))
            self._runs.enter(run)
        with log_about(**claimed.logged):
            return self._run(run)

    def _claim(self, message: ChunkMessage) -> Claim | None:
        """First waits while an image runs alone. It may crash this worker, and would take a claimed
        chunk with it.
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
        """Claims first: while the other runs end, the dispatcher would otherwise think the message
        lost. A worker that stops does not wait, and hands the chunk back.
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
            "%s. The message goes back to the queue in %.0f s, for a newer worker.",
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
        except Exception as fault:  # noqa: BLE001  (after any error the chunk is not lost)
            self._runs.fail(run, fault)
            return f"an error in this program: {type(fault).__name__}"
        if stored is None:
            return "dropped: another run has the chunk"
        if stored.loading:
            self._stragglers.keep(run)
        return _summary(run, stored)

    def _load(self, run: ChunkRun) -> None:
        """Gives the images to the loaders. Blocks while no slot is free, so that the worker takes
        no more messages. Retries images whose hosts have no room until the patience is over, and
        then defers them.
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
        """Gives images to the loaders, and returns those whose hosts have no room."""
        refused = self._loaders.load_all(
            [(position, image.uri) for position, image in images.items()],
            partial(self._take_in, run),
            partial(run.begin_loading, since=since),
        )
        return {position: images[position] for position in refused}

    def _take_in(self, run: ChunkRun, loads: list[tuple[int, Load]]) -> None:
        """The pool's threads call this, once for each image."""
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
    """Logs a summary of a run, and returns it for Flower."""
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
    """The text of a value; of a stage `median/max`."""
    match value:
        case {"median": median, "max": largest}:
            return f"{median}/{largest}"
    return str(value)


class Shown:
    """A task's answer. Celery calls `repr` on an object, but formats a dict by itself, which takes
    twenty times as long.
    """

    def __init__(self, answer: dict[str, Any] | str) -> None:
        self.answer = answer

    def __repr__(self) -> str:
        return repr(self.answer)


def register_task(app: Celery, task: ChunkTask) -> None:
    """Registers `task` with the app, as the task for our messages."""

    @app.task(name=TASK_NAME, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def classify_chunk(*_: object, **fields: Any) -> Shown:  # noqa: ANN401  (JSON)
        return Shown(task.classify_chunk(fields))
