"""Decides which image goes to which loader, and when.

An image needs a slot from its URI until the batcher has copied its pixels. While no slot is free,
callers wait, so the worker takes no more messages. If an image's host has its share of the slots,
the image is parked instead, and goes out when it is its turn. All methods handle many images at
once: a lock, a packet or a wake-up for each would cost more than everything else.
`worker.pool.pool` calls this for its callers, `worker.pool.reader` with answers, and
`worker.pool.replacement` when a loader dies.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from contract.failure import Failure
from worker.chunk.outcome import Provenance
from worker.pool.hosts import HostLimits, Hosts
from worker.pool.load import (
    KeyedLoads,
    Load,
    Loaded,
    LoadFailed,
    ManyCallback,
    PoolClosed,
    SlotOwner,
)
from worker.pool.process import LoaderProcess
from worker.pool.reader import Arrivals
from worker.pool.request import LoadRequest
from worker.pool.running import Batches, RunningLoaders, send
from worker.pool.wire import Answer

# Parked images may stop to wait for their host without any signal. So a caller that waits for room
# checks again after this time.
LOOK_AGAIN_S: Final = 1.0


class Scheduler:
    """Owns the pool's lock, the hosts and the running loaders. Safe for many threads."""

    def __init__(
        self,
        *,
        loaders: int,
        limits: HostLimits,
        owner: SlotOwner,
        ask: Callable[[str], object] | None = None,
    ) -> None:
        """
        Args:
            loaders: the number of loaders.
            limits: how many images of one host may run at once and be parked.
            owner: the owner of the slots, where images are released.
            ask: asks the rate whether an image of this host may go. The answer is a call of
                `permit`. None if there is no rate.
        """
        lock = threading.RLock()
        self._free_slot = threading.Condition(lock)  # a slot is free, or the pool is closed
        self._room = threading.Condition(lock)  # more may be parked, or the pool is closed
        self._lock = lock
        self._owner = owner
        self._hosts: Hosts[LoadRequest] = Hosts(limits, when_room=self._room.notify_all, ask=ask)
        self._running = RunningLoaders(loaders)
        self._returned: deque[LoadRequest] = deque()
        self._accepting = True

    @property
    def processes(self) -> Sequence[LoaderProcess | None]:
        """The loaders; None in place of one that is being replaced."""
        return self._running.processes

    # Callers of the pool use these.

    def submit(
        self, requests: Iterable[LoadRequest], begun: Callable[[list[Any]], object]
    ) -> list[LoadRequest]:
        """Gives out requests or parks them, and calls `begun` with their keys. Waits for free
        slots.

        Returns:
            Requests that are refused, because too many images of their hosts are parked.

        Raises:
            PoolClosed: the pool accepts no more images.
        """
        left, refused = deque(requests), list[LoadRequest]()
        while left:
            with self._lock:
                try:
                    self._await_turn(left[0])
                    keys, batches = self._admit(left, refused)
                finally:
                    self._wake_next()
            send(batches)
            begun(keys)
        return refused

    def await_room(self, hosts: Iterable[str], within_s: float) -> None:
        """Waits while the images of all these hosts would be refused, but at most a second."""
        with self._lock:
            if self._accepting and all(map(self._refuses, hosts)):
                self._room.wait(min(within_s, LOOK_AGAIN_S))

    def free_slots(self) -> int:
        with self._lock:
            return self._running.free()

    def stop_accepting(self) -> None:
        """Raises `PoolClosed` in waiting callers, and drops parked images."""
        with self._lock:
            self._accepting = False
            self._hosts.clear()
            self._free_slot.notify_all()
            self._room.notify_all()

    # These free slots and places.

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """Frees the slots of images whose pixels have been read."""
        with self._lock:
            for load in loads:
                process, slot, frame = load.slot
                process.slots.free_frame(frame)
                process.free.append(slot)
            batches = self._give_out()
        send(batches)

    def take_in(self, arrivals: Arrivals) -> None:
        """Takes answers of loaders, and calls back with them."""
        loads: defaultdict[ManyCallback, KeyedLoads] = defaultdict(list)
        with self._lock:
            for process, answers in arrivals:
                for answer in answers:
                    if answer.frame >= process.slots.count:
                        process.distrust("sent the number of a frame that does not exist")
                        break
                    request = process.requests.pop(answer.slot, None)
                    if request is None:
                        process.distrust("sent an answer without a request")
                        break
                    self._hosts.end(request.host)
                    loads[request.done].append((request.key, self._load_of(process, answer)))
            batches = self._give_out()
        send(batches)
        for done, some in loads.items():
            done(some)

    def fail(self, requests: Sequence[LoadRequest], failure: Failure) -> None:
        """Calls back with a failure for requests that no loader will answer."""
        with self._lock:
            for request in requests:
                self._hosts.end(request.host)
            batches = self._give_out()
        send(batches)
        for request in requests:
            request.done([(request.key, LoadFailed(failure, Provenance()))])

    def permit(self, host: str) -> None:
        """Takes the rate's permission for one image of this host."""
        with self._lock:
            self._hosts.permit(host)
            batches = self._give_out()
        send(batches)

    # These add and remove loaders.

    def remove(self, n: int) -> None:
        """Gives the loader at this index no more images."""
        with self._lock:
            self._running.put(n, None)

    def put(self, n: int, process: LoaderProcess) -> None:
        """Adds a loader at this index, which takes images from now on."""
        with self._lock:
            self._running.put(n, process)
            batches = self._give_out()
            self._free_slot.notify_all()
        send(batches)

    def keep(self, loaders: int) -> None:
        """Keeps only the first `loaders`."""
        with self._lock:
            self._running.keep(loaders)

    def give_back(self, requests: Iterable[LoadRequest]) -> None:
        """Takes requests whose loader does not start. They go out before all others."""
        with self._lock:
            self._returned.extend(requests)
            batches = self._give_out()
        send(batches)

    # These need the lock.

    def _await_turn(self, request: LoadRequest) -> None:
        """Waits, without the lock, until the request can be given out, parked or refused."""
        while self._accepting:
            if request.host is not None and self._hosts.must_wait(request.host):
                if self._refuses(request.host) or self._hosts.has_room(request.host):
                    return
                self._wake_next()  # this thread may have been woken for a slot, but takes none
                self._room.wait(LOOK_AGAIN_S)
            elif self._running.has_free():
                return
            else:
                self._free_slot.wait()
        raise PoolClosed

    def _admit(
        self, left: deque[LoadRequest], refused: list[LoadRequest]
    ) -> tuple[list[Any], Batches]:
        """Takes requests from `left` while it is their turn.

        Returns:
            The keys of those that are parked or go out, and the batches to send.
        """
        free = self._running.free()
        hosts, keys, going = self._hosts, [], list[LoadRequest]()
        while left:
            request = left[0]
            host = request.host
            if host is not None and hosts.must_wait(host):
                if self._refuses(host):
                    refused.append(left.popleft())
                    continue
                if not hosts.has_room(host):
                    break
                hosts.park(host, request)
            elif len(going) < free:
                hosts.begin(host)
                going.append(request)
            else:
                break
            keys.append(request.key)
            left.popleft()
        return keys, self._running.deal(going)

    def _refuses(self, host: str) -> bool:
        """Whether to refuse images of this host. If they only wait for a slot, callers wait too."""
        return self._hosts.is_held_up(host) and not self._hosts.has_room(host)

    def _give_out(self) -> Batches:
        """Gives free slots to suspects, to requests that were given back, to parked images whose
        turn it is, and then to callers.
        """
        going = list[LoadRequest]()
        suspects = self._running.deal_suspects()
        if self._hosts.ready or self._returned:
            free = self._running.free()
            while self._returned and len(going) < free:
                going.append(self._returned.popleft())
            while self._hosts.ready and len(going) < free:
                going.append(self._hosts.take())
        batches = self._running.deal(going)
        self._wake_next()
        return batches | suspects

    def _wake_next(self) -> None:
        """Wakes one caller if a slot is free. That caller then wakes the next one."""
        if self._running.has_free():
            self._free_slot.notify()

    def _load_of(self, process: LoaderProcess, answer: Answer) -> Load:
        process.answered += 1
        slot, failure, provenance, measured, frame = answer
        if failure is not None:
            process.free.append(slot)
            return LoadFailed(failure, provenance, measured)
        return Loaded(
            process.slots.pixels(frame),
            provenance,
            self._owner,
            (process, slot, frame),
            measured,
        )
