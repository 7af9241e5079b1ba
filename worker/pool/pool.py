"""The worker's side of the loaders: gives images out, takes them in, replaces who has died.

Tasks call `load_all`, which waits while every slot is taken: that is what holds back the
messages. A slot is one image, from its URI to the moment when the batcher has copied its
pixels. An image whose host has its share of the slots takes none: it is parked, and goes out
when it is its turn. All of it is done for many images at a time, since a lock, a packet or a
wake-up for each would cost more than the rest. A reader takes the answers in and calls back; a
thread for each loader replaces it, and one for all ends those that decode one image for too long,
and those that answer nothing any more.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from contract.failure import Failure
from contract.flow import host_places, line_images, parked_images
from contract.settings import Settings
from resnext.picture.preprocess import Preprocessing
from resnext.picture.resample import Pixels
from worker.chunk.outcome import NOT_MEASURED, Measured, Provenance
from worker.loader.program import LoaderConfig
from worker.pool.hosts import Hosts, host_of
from worker.pool.process import (
    CRASHES,
    LOOKS,
    START_WITHIN_S,
    LoaderProcess,
    Order,
    Surroundings,
    start_process,
)
from worker.pool.reader import Came, LoaderReader
from worker.pool.slots import Note
from worker.pool.wire import BadRecord, Done

if TYPE_CHECKING:  # it loads the library that keeps the rate, which few need
    from worker.pool.host_rate import HostRate

log = logging.getLogger(__name__)

# Loaders that die without having loaded anything are not started again at once.
FIRST_RESTART_S: Final = 0.1
LONGEST_RESTART_S: Final = 10.0
# Whether parked images wait for their host or for a slot changes all the time, and is told to
# nobody; who waits for room looks again after this.
LOOK_AGAIN_S: Final = 1.0


class PoolClosed(Exception):
    """The worker stops: nothing is loaded any more."""


class LineFull(Exception):
    """So many images of this host are parked that this one has to come again later."""


class Home(Protocol):
    """Whose slots they are."""

    def take_back(self, loads: Sequence[Loaded]) -> None: ...


@dataclass(slots=True)  # not frozen, which is slower to make
class Loaded:
    """Nobody changes it."""

    pixels: Pixels
    """(crop, crop, 3) uint8, in memory shared with the loader: valid until `release`."""
    provenance: Provenance
    home: Home
    slot: Any
    """For its home to know."""
    measured: Measured = NOT_MEASURED

    def release(self) -> None:
        release([self])


def release(loads: Sequence[Loaded]) -> None:
    """Their pixels have been read: the slots, all of one pool, are free again."""
    loads[0].home.take_back(loads)


@dataclass(slots=True)
class LoadFailed:
    """Nobody changes it."""

    failure: Failure
    provenance: Provenance
    measured: Measured = NOT_MEASURED


Load = Loaded | LoadFailed
Callback = Callable[[Load], None]
ManyCallback = Callable[[list[tuple[Any, Load]]], None]
_Sendings = dict[LoaderProcess, list[tuple[int, Order]]]
"""Orders and their slots, by the process that gets them; sent without the lock."""


class LoaderPool:
    """Owns the loader processes and the slots. Safe for many threads."""

    def __init__(
        self,
        settings: Settings,
        preprocessing: Preprocessing,
        *,
        rate: HostRate | None = None,
        parked: int | None = None,
        named: Iterable[Path] = (),
    ) -> None:
        """
        Args:
            settings: of the loaders, of fetching, and how much of one host at a time.
            preprocessing: of the model; the slots are as large as its crop.
            rate: of the images of one host; started and closed by the pool.
            parked: images that may wait for their hosts, be it one or many; None: few, since
                a worker's other images may wait in SQL.
            named: every `root` that `load` will be given; the loaders can read nothing else.
        """
        self._config = LoaderConfig.of(settings, preprocessing)
        self._surroundings = Surroundings.of(settings, named)
        self._decode_deadline_s = settings.decode_deadline_s
        # Whatever its orders are, after the first of these times each is answered or waits for the
        # decoder, and after the second the one that the decoder had is answered.
        self._silence_s = settings.fetch_deadline_s + settings.decode_deadline_s + START_WITHIN_S
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # a slot is free, or the pool closed
        self._room = threading.Condition(lock)  # more may be parked, or the pool closed
        self._rate = rate
        self._hosts = self._make_hosts(settings, parked)
        self._processes: list[LoaderProcess | None] = [None] * settings.loaders
        self._reader = LoaderReader(self._take_in, slots=settings.fetches_per_loader)
        self._accepting = True
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, args=(n,), name=f"loader-{n}", daemon=True)
            for n in range(settings.loaders)
        ]
        self._threads.append(threading.Thread(target=self._watch, name="decode-watch", daemon=True))

    def start(self) -> None:
        """Starts the processes; the images that they are given wait until they are ready."""
        for n in range(len(self._processes)):
            process = self._processes[n] = start_process(self._config, self._surroundings)
            self._reader.add(process)
        self._reader.start()
        for thread in self._threads:
            thread.start()
        if self._rate is not None:
            self._rate.start(self._permit)

    def load(self, uri: str, done: Callback, *, root: Path | None = None) -> None:
        """As `load_all`, for one image.

        `root` is a file or folder that is permitted besides `file_roots`, for this image.

        Raises:
            LineFull: so many images of its host are parked already; see `await_room`.
            PoolClosed: `stop_accepting` or `close` has been called.
        """

        def done_all(loads: list[tuple[Any, Load]]) -> None:
            for _, load in loads:
                done(load)

        order = Order(None, uri, root, host_of(uri), done_all)
        if self._load([order], lambda _: None):
            raise LineFull

    def load_all(
        self,
        uris: Iterable[tuple[Any, str]],
        done: ManyCallback,
        begun: Callable[[list[Any]], object],
    ) -> list[Any]:
        """Gives images to the loaders with the most free slots; waits as long as there is none.
        An image whose host has its share of them is parked instead, and goes out by itself.

        `begun` is called from here, with the keys of those that have gone out or are parked.
        `done` is called from a thread of the pool with keys and what has come of them, once for
        each image; it may come before `begun`, and must not block. Nothing is called after
        `close`, nor after `stop_accepting` for what was parked.

        Returns:
            Keys of images that are not taken, since so many of their hosts are parked already;
            see `await_room`.

        Raises:
            PoolClosed: `stop_accepting` or `close` has been called.
        """
        orders = [Order(key, uri, None, host_of(uri), done) for key, uri in uris]
        return [order.key for order in self._load(orders, begun)]

    def await_room(self, uris: Iterable[str], within_s: float) -> None:
        """Returns when it is worth while to `load` them again that it has refused."""
        hosts = {host for uri in uris if (host := host_of(uri)) is not None}
        with self._room:
            if self._accepting and all(map(self._refuses, hosts)):
                self._room.wait(min(within_s, LOOK_AGAIN_S))

    def free_slots(self) -> int:
        """How many images could go out at once."""
        with self._changed:
            return self._free()

    def stop_accepting(self) -> None:
        """Whoever waits in `load` is told as well; what is loading goes on, and what is parked
        does not.
        """
        with self._changed:
            self._accept_no_more()

    def close(self) -> None:
        """Ends the processes."""
        with self._changed:
            self._closing.set()
            processes = [process for process in self._processes if process is not None]
            self._accept_no_more()
        for process in processes:
            process.hang_up()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._reader.close()
        if self._rate is not None:
            self._rate.close()

    def take_back(self, loads: Sequence[Loaded]) -> None:
        """See `release`."""
        with self._changed:
            for load in loads:
                process, slot = load.slot
                process.free.append(slot)
            sendings = self._give_out()
        _send(sendings)

    def _make_hosts(self, settings: Settings, parked: int | None) -> Hosts[Order]:
        slots = settings.loaders * settings.fetches_per_loader
        places = host_places(slots=slots, fetches_per_host=settings.fetches_per_host)
        rate = None if self._rate is None else self._rate.images_per_s
        return Hosts(
            places=places,
            line=line_images(places, images_per_s=rate) if parked is None else parked,
            parked=parked_images(slots=slots) if parked is None else parked,
            when_room=self._room.notify_all,
            ask=None if self._rate is None else self._rate.ask,
        )

    def _load(self, orders: Iterable[Order], begun: Callable[[list[Any]], object]) -> list[Order]:
        """Returns what is refused."""
        left, refused = deque(orders), list[Order]()
        while left:
            with self._changed:
                try:
                    self._await_turn(left[0])
                    keys, sendings = self._admit(left, refused)
                finally:
                    self._pass_on()
            _send(sendings)
            begun(keys)
        return refused

    def _await_turn(self, order: Order) -> None:
        """Waits, without the lock, until it can be given out, parked or refused."""
        while self._accepting:
            if order.host is not None and self._hosts.must_wait(order.host):
                if self._refuses(order.host) or self._hosts.has_room(order.host):
                    return
                self._pass_on()  # what it may have been woken for
                self._room.wait(LOOK_AGAIN_S)
            elif self._has_free():
                return
            else:
                self._changed.wait()
        raise PoolClosed

    def _admit(self, left: deque[Order], refused: list[Order]) -> tuple[list[Any], _Sendings]:
        """Takes as many from `left` as have their turn: keys of those that are under way, or
        parked, and what is to be sent.
        """
        free = self._free()
        keys, going = [], list[Order]()
        while left:
            order = left[0]
            host = order.host
            if host is not None and self._hosts.must_wait(host):
                if self._refuses(host):
                    refused.append(left.popleft())
                    continue
                if not self._hosts.has_room(host):
                    break
                self._hosts.park(host, order)
            elif len(going) < free:
                self._hosts.begin(host)
                going.append(order)
            else:
                break
            keys.append(left.popleft().key)
        return keys, self._deal(going)

    def _refuses(self, host: str) -> bool:
        """Images that wait for a slot, and not for their host, hold up the tasks instead."""
        return self._hosts.is_held_up(host) and not self._hosts.has_room(host)

    def _accept_no_more(self) -> None:
        self._accepting = False
        self._hosts.clear()
        self._changed.notify_all()
        self._room.notify_all()

    def _permit(self, host: str) -> None:
        """Called by the rate: an image of this host may go."""
        with self._changed:
            self._hosts.permit(host)
            sendings = self._give_out()
        _send(sendings)

    def _give_out(self) -> _Sendings:
        """Free slots go to the parked images whose turn it is, then to who waits for one."""
        going = list[Order]()
        if self._hosts.ready:
            free = self._free()
            while self._hosts.ready and len(going) < free:
                going.append(self._hosts.take())
        sendings = self._deal(going)
        self._pass_on()
        return sendings

    def _deal(self, orders: list[Order]) -> _Sendings:
        """Each to the process with the most free slots; there are enough of them."""
        sendings: _Sendings = {}
        if not orders:
            return sendings
        # The number tells processes with as many free slots apart, which have no order.
        heap = [(-len(process.free), n, process) for n, process in enumerate(self._running())]
        heapify(heap)
        for order in orders:
            less, n, process = heap[0]
            sendings.setdefault(process, []).append(process.assign(order))
            heapreplace(heap, (less + 1, n, process))
        return sendings

    def _pass_on(self) -> None:
        """Wakes one who waits for a slot, if there is one. Who is woken passes on what he does
        not take.
        """
        if self._has_free():
            self._changed.notify()

    def _free(self) -> int:
        return sum(len(process.free) for process in self._running())

    def _has_free(self) -> bool:
        return any(process.free for process in self._running())

    def _running(self) -> list[LoaderProcess]:
        return [process for process in self._processes if process is not None]

    def _keep(self, n: int) -> None:
        """Replaces a loader when it dies, until the pool closes."""
        wait_s = FIRST_RESTART_S
        while True:
            process = self._processes[n]
            if process is None:  # the pool was closed before there was another
                return
            process.gone.wait()
            process.end()
            if self._closing.is_set():
                return
            wait_s = FIRST_RESTART_S if process.loaded else min(2 * wait_s, LONGEST_RESTART_S)
            self._replace(n, process, wait_s)

    def _watch(self) -> None:
        look_s = self._decode_deadline_s / LOOKS
        most_looks = ceil(self._silence_s / look_s)
        while not self._closing.wait(look_s):
            for process in self._processes:
                if process is not None:
                    process.look()
                    process.listen(most_looks)

    def _take_in(self, came: Came) -> None:
        """Called by the reader."""
        loads: dict[ManyCallback, list[tuple[Any, Load]]] = {}
        with self._changed:
            for process, answers in came:
                for answer in answers:
                    order = process.orders.pop(answer.slot, None)
                    if order is None:
                        process.distrust(BadRecord("an answer that nobody asked for"))
                        break
                    self._hosts.end(order.host)
                    load = self._load_of(process, answer)
                    loads.setdefault(order.done, []).append((order.key, load))
            sendings = self._give_out()
        _send(sendings)
        for done, some in loads.items():
            done(some)

    def _load_of(self, process: LoaderProcess, answer: Done) -> Load:
        process.loaded += 1
        if answer.failure is not None:
            process.free.append(answer.slot)
            return LoadFailed(answer.failure, answer.provenance, answer.measured)
        return Loaded(
            process.slots.pixels(answer.slot),
            answer.provenance,
            self,
            (process, answer.slot),
            answer.measured,
        )

    def _replace(self, n: int, dead: LoaderProcess, wait_s: float) -> None:
        """What it died of fails; the other images go to the next life."""
        with self._changed:
            self._processes[n] = None  # nothing is given to it any more
            orders, dead.orders = dead.orders, {}
        failed, failure = self._condemn(dead, orders)
        log.warning(
            "A loader died (exit status %s)%s; %d images go to its replacement.",
            dead.child.returncode,
            f", and {len(failed)} of its images fail: {failure.code}" if failure else "",
            len(orders),
        )
        if failure is not None:
            self._fail(failed, failure)
        elif not dead.loaded:
            self._closing.wait(wait_s)
        process = self._restart()
        if process is None:
            return
        again = [process.assign(order) for order in orders.values()]
        self._reader.add(process)
        with self._changed:
            self._processes[n] = process
            sendings = self._give_out()
            self._changed.notify_all()
        process.send(again)
        _send(sendings)
        if self._closing.is_set():  # it was not there yet when the others were told
            process.hang_up()

    def _condemn(
        self, dead: LoaderProcess, orders: dict[int, Order]
    ) -> tuple[list[Order], Failure | None]:
        """Takes out of a dead loader's orders what fails, and says what with."""
        if dead.mute:  # each may be the one that it hangs at, and is tried again alone
            failed = list(orders.values())
            orders.clear()
            return failed, Failure("timeout", f"no answer of its loader for {self._silence_s:g} s")
        note = dead.slots.noted()
        suspect = orders.pop(note.slot, None) if note is not None else None
        if note is None or suspect is None:
            return [], None
        failure = self._judge(dead, note, suspect)
        if failure is None:
            orders[note.slot] = replace(suspect, deaths=suspect.deaths + 1)
            return [], None
        return [suspect], failure

    def _fail(self, orders: Iterable[Order], failure: Failure) -> None:
        """No loader answers for them any more."""
        with self._changed:
            for order in orders:
                self._hosts.end(order.host)
            sendings = self._give_out()
        _send(sendings)
        for order in orders:
            order.done([(order.key, LoadFailed(failure, Provenance()))])

    def _judge(self, dead: LoaderProcess, note: Note, suspect: Order) -> Failure | None:
        """What the image fails with that was being decoded; None if it deserves another try."""
        if dead.overdue is not None and dead.overdue == note:
            return Failure("decode_timeout", f"more than {self._decode_deadline_s:g} s")
        if dead.child.returncode in CRASHES:
            return Failure("crashed", "the decoder crashed")
        if suspect.deaths:
            return Failure("crashed", "the loader was killed each time that it decoded this image")
        return None

    def _restart(self) -> LoaderProcess | None:
        """Tries until a loader can be started; None once the pool is closed."""
        wait_s = FIRST_RESTART_S
        while not self._closing.is_set():
            try:
                return start_process(self._config, self._surroundings)
            except OSError as error:
                log.error("No loader can be started; trying on: %s", error)  # noqa: TRY400
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_S)
        return None


def _send(sendings: _Sendings) -> None:
    for process, assigned in sendings.items():
        process.send(assigned)
