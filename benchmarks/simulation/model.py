"""The queue as a simulation: what each part does for a chunk, and what it waits for.

`simulate` takes a plan (how many workers, which machines) and the costs that were measured, and
gives images/s and how busy each part is. It simulates chunks, not images, and only as many seconds
as `Plan.measured_s` after `Plan.warm_s`: a queue in its steady state does the same in every second,
so a billion images take a billion divided by the rate.

    dispatcher: tick → database: publish → Redis → worker: take → database: claim
        → uplink, loaders → worker: batch → device → database: store → tally → dispatcher: fold

The window and the prefetch are the program's own formulas. CPU goes in slices, so that a long task
holds back no short one, as an operating system does it. Not in the model: failures, waits for
locks, indexes that outgrow the memory, and other programs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import ceil, exp, log2
from random import Random
from typing import Final

from benchmarks.simulation.kernel import Clock, Process, Station
from contract.flow import InHand, prefetch_chunks, window_images
from contract.settings import Settings
from producer.dispatcher.count import RATE_TIME_S, TALLIES_A_TICK
from producer.dispatcher.publish import CHUNKS_A_TICK
from worker.process.database import TASK_CONNECTIONS

SLICE_S: Final = 0.005
PUSHED_AT_ONCE: Final = 16
UNLIMITED: Final = 10**9
DEFAULT: Final = Settings.model_construct()
# Of what is measured as one: the claim's part of a chunk in the database. It moves waits, no rate.
CLAIMED: Final = 0.5
BEAT_S: Final = 1.0
MEASURED_WORKERS: Final = 2
"""With which the costs of a chunk and an image were measured."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds of one part."""

    chunk: float
    image: float
    second: float
    """For each worker, or of the dispatcher, whatever it does."""

    def of_chunk(self, images: int) -> float:
        return self.chunk + self.image * images


@dataclass(frozen=True, kw_only=True)
class Crowding:
    """How much dearer work is, as a part of it, for each doubling of the workers that share a
    machine: their processes and threads push each other out of caches.
    """

    chunk: float = 0.0
    image: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured: see benchmarks/simulation/calibration.py."""

    workers: Cost
    dispatcher: Cost
    database: Cost
    """For workers."""
    dispatching: Cost
    """Of the database for the dispatcher, one statement after the other."""
    broker: Cost
    flush_s: float
    """The database's log on its way to the disk, for all commits that wait."""
    worker_share: float = 1.0
    """Of a core, at most, that a worker's main process uses: its threads wait for each other."""
    crowding: Crowding = Crowding()
    image_loading_s: float = 0.0
    """CPU of a loader."""
    image_bytes: float = 0.0
    """From the web."""

    def shared_by(self, workers: int) -> Costs:
        """On one machine with so many workers."""
        doublings = max(0.0, log2(workers / MEASURED_WORKERS))  # one worker has no crowd
        chunk, image = 1 + self.crowding.chunk * doublings, 1 + self.crowding.image * doublings

        def dearer(cost: Cost) -> Cost:
            return replace(cost, chunk=cost.chunk * chunk, image=cost.image * image)

        return replace(
            self,
            workers=dearer(self.workers),
            dispatcher=dearer(self.dispatcher),
            database=dearer(self.database),
            dispatching=dearer(self.dispatching),
            broker=dearer(self.broker),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is simulated."""

    workers: int
    device_images_s: float = 0.0
    """Of each worker; 0: a device that takes no time."""
    chunk_images: int = 256
    shared_cores: int | None = None
    """All parts on one machine with so many cores; None: each has what follows."""
    database_cores: int = 8
    loader_cores: int = 12
    """Of each worker."""
    round_trip_s: float = 0.0005
    uplink_bits_s: float | None = None
    """Of all workers together, to the web."""
    set_chunk_images: int | None = None
    """RESNEXT_CHUNK_IMAGES; it sizes the window."""
    dispatch_interval_s: float = DEFAULT.dispatch_interval_s
    window_s: float = DEFAULT.window_s
    chunks_a_tick: int = CHUNKS_A_TICK
    batch_images: int = 256
    warm_s: float = 30.0
    measured_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Found:
    images_s: float
    busy: dict[str, float]
    """By part, of its places. `commits` is the database's log; `dispatcher` is the share of time
    that it spends in ticks, what it waits for included.
    """

    @property
    def busiest(self) -> str:
        return max(self.busy, key=self.busy.__getitem__)


def simulate(plan: Plan, costs: Costs) -> Found:
    queue = Queue(plan, costs)
    queue.clock.run(plan.warm_s)
    images = queue.images_done
    before = {name: queue.taken_s(name) for name in queue.stations}
    queue.clock.run(plan.warm_s + plan.measured_s)
    busy = {
        name: (queue.taken_s(name) - before[name])
        / (plan.measured_s * sum(one.places for one in stations))
        for name, stations in queue.stations.items()
    }
    return Found(images_s=(queue.images_done - images) / plan.measured_s, busy=busy)


@dataclass(eq=False)
class Worker:
    main: Station
    device: Station
    loaders: Station
    connections: Station
    chunks: int = 0
    images: int = 0
    """That are not classified yet."""
    wanted: int = 1


@dataclass(eq=False)
class Queue:
    """All parts, and the chunks between them."""

    plan: Plan
    costs: Costs
    clock: Clock = field(default_factory=Clock)
    images_done: int = 0
    published: int = 0
    stored: int = 0
    messages: int = 0
    _queued: int = 0
    """Chunks that are published and not claimed."""
    _tallies: int = 0
    _done_images_s: float | None = None

    def __post_init__(self) -> None:
        plan, clock = self.plan, self.clock
        self.cores = Station(clock, plan.shared_cores or UNLIMITED)
        shared = plan.shared_cores is not None
        if shared:
            self.costs = self.costs.shared_by(plan.workers)
        self.database = Station(clock, UNLIMITED if shared else plan.database_cores)
        self.dispatcher, self.broker = Station(clock, 1), Station(clock, 1)
        self.ticks = Station(clock, 1)
        self.commits, self.uplink = Station(clock, 1), Station(clock, 1)
        self.workers = [
            Worker(
                main=Station(clock, 1),
                device=Station(clock, 1),
                loaders=Station(clock, plan.loader_cores),
                connections=Station(clock, TASK_CONNECTIONS),
            )
            for _ in range(plan.workers)
        ]
        self._turns = deque(self.workers)
        order = Random(1)
        for worker in self.workers:
            clock.start(self._live(worker), order.random())
        clock.start(self._dispatch())

    @property
    def stations(self) -> dict[str, list[Station]]:
        """By what is shown; only those that the plan limits."""
        found = {
            "dispatcher": [self.ticks],
            "Redis": [self.broker],
            "commits": [self.commits],
            "worker": [worker.main for worker in self.workers],
        }
        if self.plan.device_images_s:
            found["device"] = [worker.device for worker in self.workers]
        if self.costs.image_loading_s:
            found["loaders"] = [worker.loaders for worker in self.workers]
        if self.plan.uplink_bits_s:
            found["uplink"] = [self.uplink]
        if self.plan.shared_cores is None:
            return found | {"database": [self.database]}
        return found | {"cores": [self.cores]}

    def taken_s(self, name: str) -> float:
        return sum(one.taken_s for one in self.stations[name])

    # What takes time.

    def _use(self, station: Station, seconds: float) -> Process:
        yield station
        yield seconds
        station.leave()

    def _compute(self, station: Station, seconds: float, share: float = 1.0) -> Process:
        """CPU of a part, a core at once: `station` is what bounds it besides, and the part has a
        core for this share of the time.
        """
        while seconds > 0:
            yield station
            yield self.cores
            slice_s = min(seconds, SLICE_S)
            yield slice_s
            self.cores.leave()
            yield slice_s * (1 / share - 1)
            station.leave()
            seconds -= SLICE_S

    def _work(self, worker: Worker, seconds: float) -> Process:
        return self._compute(worker.main, seconds, self.costs.worker_share)

    def _transact(self, seconds: float) -> Process:
        yield self.plan.round_trip_s
        yield from self._compute(self.database, seconds)
        yield from self._commit()

    def _commit(self) -> Process:
        """Commits that wait for the log reach the disk together with the next flush."""
        if self.commits.waiting == 0:
            yield from self._use(self.commits, self.costs.flush_s)
        else:
            yield self.costs.flush_s * 1.5

    # What the parts do.

    def _dispatch(self) -> Process:
        """A tick: fold what was stored, publish what there is room for. Half of what is measured
        for a chunk is for each.
        """
        plan, images = self.plan, self.plan.chunk_images
        own_s = self.costs.dispatcher.of_chunk(images) / 2
        database_s = self.costs.dispatching.of_chunk(images) / 2
        folded_at = self.clock.now
        while True:
            began = self.clock.now
            yield self.ticks
            tallies = min(self._tallies, TALLIES_A_TICK)
            self._tallies -= tallies
            yield from self._compute(self.dispatcher, own_s * tallies)
            yield from self._transact(database_s * tallies)
            self._note_rate(tallies * plan.chunk_images, self.clock.now - folded_at)
            folded_at = self.clock.now
            room = self._window() - self._queued * plan.chunk_images
            chunks = min(max(0, ceil(room / plan.chunk_images)), plan.chunks_a_tick)
            if chunks:
                yield from self._publish(chunks, own_s, database_s)
            second = self.costs.dispatcher.second + self.costs.dispatching.second
            yield from self._compute(self.dispatcher, second * plan.dispatch_interval_s)
            self.ticks.leave()
            yield max(1e-4, plan.dispatch_interval_s - (self.clock.now - began))

    def _publish(self, chunks: int, own_s: float, database_s: float) -> Process:
        """One transaction, and then the messages; workers take the first before the last is out."""
        yield from self._transact(database_s * chunks)
        self._queued += chunks
        while chunks > 0:
            pushed = min(chunks, PUSHED_AT_ONCE)
            yield from self._compute(self.dispatcher, own_s * pushed)
            self.published += pushed
            self.messages += pushed
            chunks -= pushed
            self._hand_out()

    def _note_rate(self, images: int, seconds: float) -> None:
        if seconds <= 0:
            return
        rate = images / seconds
        if self._done_images_s is not None:
            kept = exp(-seconds / RATE_TIME_S)
            rate = self._done_images_s * kept + rate * (1 - kept)
        self._done_images_s = rate

    def _window(self) -> int:
        return window_images(
            workers=self.plan.workers,
            chunk_images=self.plan.set_chunk_images or 64,
            window_s=self.plan.window_s,
            device_images_s=self.plan.workers * self._device_images_s,
            done_images_s=self._done_images_s,
        )

    @property
    def _device_images_s(self) -> float:
        """What a worker says of its device: one that takes no time does what its process can."""
        return self.plan.device_images_s or 1 / self.costs.workers.image

    def _hand_out(self) -> None:
        """Messages to workers that want more, in turn."""
        full = 0
        while self.messages and full < len(self._turns):
            full = 0 if self._take(self._turns[0]) else full + 1
            self._turns.rotate(-1)

    def _take(self, worker: Worker) -> bool:
        """One message; False if there is none, or the worker wants no more."""
        if not self.messages or worker.chunks >= worker.wanted:
            return False
        self.messages -= 1
        worker.chunks += 1
        worker.images += self.plan.chunk_images
        self.clock.start(self._run(worker))
        return True

    def _take_all(self, worker: Worker) -> None:
        while self._take(worker):
            pass

    def _live(self, worker: Worker) -> Process:
        """Once a second: how much it wants, and what it costs that it is there."""
        plan, costs = self.plan, self.costs
        while True:
            worker.wanted = prefetch_chunks(
                InHand(worker.chunks, worker.images, 0),
                in_flight_s=DEFAULT.in_flight_s,
                images_per_s=self._device_images_s,
                images_per_chunk=plan.chunk_images,
                free_slots=1024 * plan.loader_cores,
                batch_images=plan.batch_images,
                most_chunks=DEFAULT.chunks_in_flight,
            )
            self._take_all(worker)
            yield BEAT_S
            self.clock.start(self._work(worker, costs.workers.second * BEAT_S))
            self.clock.start(self._compute(self.database, costs.database.second * BEAT_S))
            self.clock.start(self._compute(self.broker, costs.broker.second * BEAT_S))

    def _run(self, worker: Worker) -> Process:
        """A chunk in a worker."""
        plan, costs = self.plan, self.costs
        images = plan.chunk_images
        yield from self._compute(self.broker, costs.broker.of_chunk(images))
        yield from self._work(worker, costs.workers.chunk / 2)
        yield worker.connections
        yield from self._transact(costs.database.chunk * CLAIMED)
        worker.connections.leave()
        self._queued -= 1
        yield from self._load(worker, images)
        yield from self._work(worker, costs.workers.image * images)
        if plan.device_images_s:
            yield from self._use(worker.device, images / plan.device_images_s)
        worker.images -= images
        yield worker.connections
        stored = costs.database.chunk * (1 - CLAIMED) + costs.database.image * images
        yield from self._transact(stored)
        worker.connections.leave()
        self.stored += 1
        self.images_done += images
        self._tallies += 1
        yield from self._work(worker, costs.workers.chunk / 2)
        worker.chunks -= 1
        self._take_all(worker)

    def _load(self, worker: Worker, images: int) -> Process:
        plan, costs = self.plan, self.costs
        if plan.uplink_bits_s:
            yield from self._use(self.uplink, images * costs.image_bytes * 8 / plan.uplink_bits_s)
        # All loaders of the worker share a chunk.
        if costs.image_loading_s:
            part_s = costs.image_loading_s * images / plan.loader_cores
            for _ in range(plan.loader_cores - 1):
                self.clock.start(self._use(worker.loaders, part_s))
            yield from self._use(worker.loaders, part_s)
