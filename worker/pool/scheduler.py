"""Decides which image goes to which loader, and when.

An image needs a slot: from its URI to the moment when the batcher has copied its pixels. While
there is no free slot, callers wait; that holds back the messages. If an image's host has its share
of the slots, the image is parked instead, and goes out by itself when it is its turn. Everything
is done for many images at once: a lock, a packet or a wake-up for each would cost more than the
rest. `worker.pool.pool` calls this for the callers, `worker.pool.reader` with answers, and
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

# Whether parked images wait for their host or for a slot changes all the time, without a signal.
# A caller that waits for room looks again after this.
LOOK_AGAIN_S: Final = 1.0


class Scheduler:
    """Owns the lock of the pool, the hosts and the running loaders. Safe for many threads."""

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
            loaders: how many there are.
            limits: how much of one host at once.
            owner: of the slots; images are released there.
            ask: asks the rate whether an image of this host may go; `permit` is the answer.
                None: there is no rate.
        """
        lock = threading.RLock()
        self._free_slot = threading.Condition(lock)  # a slot is free, or nothing is accepted
        self._room = threading.Condition(lock)  # more may be parked, or nothing is accepted
        self._lock = lock
        self._owner = owner
        self._hosts: Hosts[LoadRequest] = Hosts(limits, when_room=self._room.notify_all, ask=ask)
        self._running = RunningLoaders(loaders)
        self._returned: deque[LoadRequest] = deque()
        self._accepting = True

    @property
    def processes(self) -> Sequence[LoaderProcess | None]:
        """The loaders; None while one is being replaced."""
        return self._running.processes

    # What callers ask for

    def submit(
        self, requests: Iterable[LoadRequest], begun: Callable[[list[Any]], object]
    ) -> list[LoadRequest]:
        """Gives requests out or parks them, and tells `begun` their keys; waits for free slots.

        Returns:
            Requests that are refused: too many of their hosts are parked.

        Raises:
            PoolClosed: nothing is accepted any more.
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
        """Waits while the images of all these hosts would be refused; a second at most."""
        with self._lock:
            if self._accepting and all(map(self._refuses, hosts)):
                self._room.wait(min(within_s, LOOK_AGAIN_S))

    def free_slots(self) -> int:
        with self._lock:
            return self._running.free()

    def stop_accepting(self) -> None:
        """Callers that wait get `PoolClosed`, and parked images are dropped."""
        with self._lock:
            self._accepting = False
            self._hosts.clear()
            self._free_slot.notify_all()
            self._room.notify_all()

    # What frees slots and places

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """The pixels of these images have been read."""
        with self._lock:
            for load in loads:
                process, slot, frame = load.slot
                process.slots.free_frame(frame)
                process.free.append(slot)
            batches = self._give_out()
        send(batches)

    def take_in(self, arrivals: Arrivals) -> None:
        """Calls back with the answers of loaders."""
        loads: defaultdict[ManyCallback, KeyedLoads] = defaultdict(list)
        with self._lock:
            for process, answers in arrivals:
                for answer in answers:
                    if answer.frame >= process.slots.count:
                        process.distrust("sent a frame that there is not")
                        break
                    request = process.requests.pop(answer.slot, None)
                    if request is None:
                        process.distrust("sent an answer to no request")
                        break
                    self._hosts.end(request.host)
                    loads[request.done].append((request.key, self._load_of(process, answer)))
            batches = self._give_out()
        send(batches)
        for done, some in loads.items():
            done(some)

    def fail(self, requests: Sequence[LoadRequest], failure: Failure) -> None:
        """Calls back with a failure: no loader will answer these."""
        with self._lock:
            for request in requests:
                self._hosts.end(request.host)
            batches = self._give_out()
        send(batches)
        for request in requests:
            request.done([(request.key, LoadFailed(failure, Provenance()))])

    def permit(self, host: str) -> None:
        """The rate lets one image of this host go."""
        with self._lock:
            self._hosts.permit(host)
            batches = self._give_out()
        send(batches)

    # Loaders that come and go

    def remove(self, n: int) -> None:
        """The loader at this place gets no more images."""
        with self._lock:
            self._running.put(n, None)

    def put(self, n: int, process: LoaderProcess) -> None:
        """The loader at this place takes images from now on."""
        with self._lock:
            self._running.put(n, process)
            batches = self._give_out()
            self._free_slot.notify_all()
        send(batches)

    def keep(self, loaders: int) -> None:
        """There are no more than the first ones."""
        with self._lock:
            self._running.keep(loaders)

    def give_back(self, requests: Iterable[LoadRequest]) -> None:
        """Requests whose loader does not start: they go out before all others."""
        with self._lock:
            self._returned.extend(requests)
            batches = self._give_out()
        send(batches)

    # With the lock

    def _await_turn(self, request: LoadRequest) -> None:
        """Waits, without the lock, until it can be given out, parked or refused."""
        while self._accepting:
            if request.host is not None and self._hosts.must_wait(request.host):
                if self._refuses(request.host) or self._hosts.has_room(request.host):
                    return
                self._wake_next()  # this thread takes no slot, though it was woken for one
                self._room.wait(LOOK_AGAIN_S)
            elif self._running.has_free():
                return
            else:
                self._free_slot.wait()
        raise PoolClosed

    def _admit(
        self, left: deque[LoadRequest], refused: list[LoadRequest]
    ) -> tuple[list[Any], Batches]:
        """Takes requests from `left` as long as it is their turn.

        Returns:
            The keys of those that are parked or go out, and what is to be sent.
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
        """If its images wait for a slot rather than for the host, callers wait instead."""
        return self._hosts.is_held_up(host) and not self._hosts.has_room(host)

    def _give_out(self) -> Batches:
        """Free slots go to suspects, to requests that were given back, to parked images whose turn
        it is, then to callers.
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
        """Wakes one caller if a slot is free. A woken caller passes on what it does not take."""
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
