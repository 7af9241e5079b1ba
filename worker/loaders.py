"""The worker's side of the loaders: gives images out, takes them in, replaces who has died.

Tasks call `load`, which waits while every slot is taken: that is what holds back the
messages. A slot is one image, from its URI to the moment when the batcher has copied its
pixels. An image whose host has its share of the slots takes none: it is parked, and goes out
when it is its turn. A thread for each loader reads the answers and calls back; one more for all
of them ends those that decode one image for too long.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contract.error_codes import Failure
from contract.settings import Settings
from resnext.preprocess import Preprocessing
from resnext.resample import Pixels
from worker.hosts import LONGEST_LINE_S, PARKED_A_PLACE, Hosts, host_of
from worker.loader import LoaderConfig
from worker.outcome import NOT_MEASURED, Measured, Provenance
from worker.records import MAX_RECORD_BYTES, BadRecord, Done, pack_load, unpack_done
from worker.slots import Note, Slots

if TYPE_CHECKING:  # it loads the library that keeps the rate, which few need
    from worker.host_rate import HostRate

log = logging.getLogger(__name__)

# A loader gets no more of our environment than this: there may be secrets in it.
KEPT_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "LC_ALL", "TZ", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
     "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "RES_OPTIONS"}
)  # fmt: skip
# Each of glibc's arenas takes 64 MiB of address space, of which a loader has a limited amount; it
# decodes one image at a time, so threads that wait for each other's allocations cost nothing.
ADDED_VARIABLES: Final = {"MALLOC_ARENA_MAX": "2"}
# Loaders that die without having loaded anything are not started again at once.
FIRST_RESTART_S: Final = 0.1
LONGEST_RESTART_S: Final = 10.0
END_WITHIN_S: Final = 2.0
# How a process ends that its own code has ended. Any other end (SIGKILL, for want of memory or by
# a person) may be no fault of the image that it was decoding.
CRASHES: Final = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
# Whether parked images wait for their host or for a slot changes all the time, and is told to
# nobody; who waits for room looks again after this.
LOOK_AGAIN_S: Final = 1.0
# So often a loader is looked at within the time that it may decode one image.
LOOKS: Final = 20


class PoolClosed(Exception):
    """The worker stops: nothing is loaded any more."""


class LineFull(Exception):
    """So many images of this host are parked that this one has to come again later."""


@dataclass(frozen=True)
class Loaded:
    pixels: Pixels
    """(crop, crop, 3) uint8, in memory shared with the loader: valid until `release`."""
    provenance: Provenance
    release: Callable[[], None]
    measured: Measured = NOT_MEASURED


@dataclass(frozen=True)
class LoadFailed:
    failure: Failure
    provenance: Provenance
    measured: Measured = NOT_MEASURED


Callback = Callable[[Loaded | LoadFailed], None]


@dataclass(frozen=True)
class _Order:
    uri: str
    root: Path | None
    done: Callback
    host: str | None
    deaths: int = 0
    """Loaders that something else ended while they decoded it."""


@dataclass
class _Process:
    """One life of a loader. Its slots are free, ordered, or hold pixels to be released."""

    child: subprocess.Popen[bytes]
    connection: socket.socket
    slots: Slots
    free: list[int]
    orders: dict[int, _Order] = field(default_factory=dict)
    loaded: int = 0
    seen: Note | None = None
    """What it was decoding when it was last looked at."""
    looks: int = 0
    """How often it has been found at that since."""
    overdue: Note | None = None
    """What it decoded for too long, and was killed for."""

    def send(self, slot: int, order: _Order) -> None:
        # If it has died, its reader finds the order and gives it to the replacement.
        with suppress(OSError):
            self.connection.send(pack_load(slot, order.uri, order.root))

    def assign(self, order: _Order) -> _Sending:
        """A free slot is the order's, which is then to be sent; under the pool's lock."""
        slot = self.free.pop()
        self.orders[slot] = order
        return self, slot, order

    def look(self) -> None:
        """Kills it if it decodes what it did LOOKS looks ago.

        Looks are counted, and no time is taken: after a pause of the whole machine a clock
        would say that everything had taken too long.
        """
        note = self.slots.noted()
        self.looks = self.looks + 1 if note == self.seen else 0
        self.seen = note
        if note is not None and self.looks >= LOOKS:
            self.overdue = note
            self.child.kill()

    def hang_up(self) -> None:
        """It ends, and whoever reads its answers hears of it."""
        with suppress(OSError):  # it died, and its reader has closed the connection
            self.connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.connection.close()
        try:
            self.child.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


_Sending = tuple[_Process, int, _Order]
"""An order, the process that gets it, and its slot; sent without the lock."""


class LoaderPool:
    """Owns the loader processes and the slots. `load` is safe for many threads."""

    def __init__(
        self,
        settings: Settings,
        preprocessing: Preprocessing,
        *,
        rate: HostRate | None = None,
        parked: int | None = None,
    ) -> None:
        """
        Args:
            settings: of the loaders, of fetching, and how much of one host at a time.
            preprocessing: of the model; the slots are as large as its crop.
            rate: of the images of one host; started and closed by the pool.
            parked: images that may wait for their hosts, be it one or many; None: few, since
                a worker's other images may wait in SQL.
        """
        self._config = LoaderConfig.of(settings, preprocessing)
        self._decode_deadline_s = settings.decode_deadline_s
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # a slot is free, or the pool closed
        self._room = threading.Condition(lock)  # more may be parked, or the pool closed
        self._rate = rate
        self._hosts = self._make_hosts(settings, parked)
        self._processes: list[_Process | None] = [None] * settings.loaders
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
            self._processes[n] = self._start_process()
        for thread in self._threads:
            thread.start()
        if self._rate is not None:
            self._rate.start(self._permit)

    def load(self, uri: str, done: Callback, *, root: Path | None = None) -> None:
        """Gives an image to the loader with the most free slots; waits until there is one. An
        image whose host has its share of them is parked instead, and goes out by itself.

        `root` is a file or folder that is permitted besides `file_roots`, for this image.

        `done` is called once, from a thread of the pool; it must not block. Nothing is called
        after `close`, nor after `stop_accepting` for what was parked.

        Raises:
            LineFull: so many images of its host are parked already; see `await_room`.
            PoolClosed: `stop_accepting` or `close` has been called.
        """
        order = _Order(uri, root, done, host_of(uri))
        with self._changed:
            try:
                sendings = self._admit(order)
            finally:
                self._pass_on()
        _send(sendings)

    def await_room(self, uris: Iterable[str], within_s: float) -> None:
        """Returns when it is worth while to `load` them again that it has refused."""
        hosts = {host for uri in uris if (host := host_of(uri)) is not None}
        with self._room:
            if self._accepting and all(map(self._refuses, hosts)):
                self._room.wait(min(within_s, LOOK_AGAIN_S))

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
        if self._rate is not None:
            self._rate.close()

    def _make_hosts(self, settings: Settings, parked: int | None) -> Hosts[_Order]:
        slots = settings.loaders * settings.fetches_per_loader
        # One host has half of the slots at most: so one that is slow leaves the others the rest.
        places = max(1, min(settings.fetches_per_host, slots // 2))
        line = PARKED_A_PLACE * places
        if self._rate is not None:
            line = min(line, max(1, int(self._rate.images_per_s * LONGEST_LINE_S)))
        return Hosts(
            places=places,
            line=line if parked is None else parked,
            parked=PARKED_A_PLACE * slots if parked is None else parked,
            when_room=self._room.notify_all,
            ask=None if self._rate is None else self._rate.ask,
        )

    def _admit(self, order: _Order) -> list[_Sending]:
        """Waits, without the lock, until the order has a slot or is parked: then there is
        nothing to be sent.
        """
        while self._accepting:
            if order.host is not None and self._hosts.must_wait(order.host):
                if self._refuses(order.host):
                    raise LineFull
                if self._hosts.has_room(order.host):
                    self._hosts.park(order.host, order)
                    return []
                self._room.wait(LOOK_AGAIN_S)
            elif (process := self._roomiest()) is not None:
                self._hosts.begin(order.host)
                return [process.assign(order)]
            else:
                self._changed.wait()
        raise PoolClosed

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

    def _give_out(self) -> list[_Sending]:
        """Free slots go to the parked images whose turn it is, then to who waits in `load`."""
        sendings = []
        while self._hosts.ready and (process := self._roomiest()) is not None:
            sendings.append(process.assign(self._hosts.take()))
        self._pass_on()
        return sendings

    def _pass_on(self) -> None:
        """Wakes one who waits for a slot, if there is one. Who is woken passes on what he does
        not take.
        """
        if self._roomiest() is not None:
            self._changed.notify()

    def _roomiest(self) -> _Process | None:
        running = [process for process in self._processes if process is not None]
        best = max(running, key=lambda process: len(process.free), default=None)
        return best if best is not None and best.free else None

    def _start_process(self) -> _Process:
        config = self._config
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as failed, ExitStack() as passed_on:
            failed.callback(ours.close)
            passed_on.callback(theirs.close)
            memory = Slots.make(count=config.slots, crop=config.preprocessing.crop)
            passed_on.callback(os.close, memory)
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.loader", str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory),
                env={k: v for k, v in os.environ.items() if k in KEPT_VARIABLES} | ADDED_VARIABLES,
                stdin=subprocess.DEVNULL,
            )
            slots = Slots(memory, count=config.slots, crop=config.preprocessing.crop)
            failed.pop_all()
        with suppress(OSError):  # it has died already, which its reader finds out
            ours.send(config.encode())
        return _Process(child, ours, slots, free=list(range(config.slots)))

    def _keep(self, n: int) -> None:
        """Reads a loader's answers, and replaces it when it dies, until the pool closes."""
        wait_s = FIRST_RESTART_S
        while True:
            process = self._processes[n]
            if process is None:  # the pool was closed before there was another
                return
            self._read(process)
            process.end()
            if self._closing.is_set():
                return
            wait_s = FIRST_RESTART_S if process.loaded else min(2 * wait_s, LONGEST_RESTART_S)
            self._replace(n, process, wait_s)

    def _watch(self) -> None:
        while not self._closing.wait(self._decode_deadline_s / LOOKS):
            for process in self._processes:
                if process is not None:
                    process.look()

    def _read(self, process: _Process) -> None:
        """Until the loader is gone, or says what no loader of ours would."""
        while True:
            try:
                packet = process.connection.recv(MAX_RECORD_BYTES)
                if not packet:
                    return
                self._take_in(process, unpack_done(packet))
            except OSError:
                return
            except BadRecord as error:
                log.error("A loader sent %s; it is replaced.", error)  # noqa: TRY400
                process.child.kill()
                return

    def _take_in(self, process: _Process, done: Done) -> None:
        with self._changed:
            order = process.orders.pop(done.slot, None)
            if order is None:
                raise BadRecord("an answer that nobody asked for")
            if done.failure is not None:
                process.free.append(done.slot)
            sendings = self._end(order)
        _send(sendings)
        process.loaded += 1
        if done.failure is not None:
            order.done(LoadFailed(done.failure, done.provenance, done.measured))
            return
        order.done(
            Loaded(
                process.slots.pixels(done.slot),
                done.provenance,
                release=lambda: self._release(process, done.slot),
                measured=done.measured,
            )
        )

    def _release(self, process: _Process, slot: int) -> None:
        with self._changed:
            process.free.append(slot)
            sendings = self._give_out()
        _send(sendings)

    def _end(self, order: _Order) -> list[_Sending]:
        """It is fetched, or is not to be had: the next one of its host may go."""
        self._hosts.end(order.host)
        return self._give_out()

    def _replace(self, n: int, dead: _Process, wait_s: float) -> None:
        """The image that it died of fails; the others go to the next life."""
        note = dead.slots.noted()
        with self._changed:
            self._processes[n] = None  # nothing is given to it any more
            orders, dead.orders = dead.orders, {}
        suspect = orders.pop(note.slot, None) if note is not None else None
        failure = self._judge(dead, note, suspect) if suspect is not None else None
        if note is not None and suspect is not None and failure is None:
            orders[note.slot] = replace(suspect, deaths=suspect.deaths + 1)
        log.warning(
            "A loader died (exit status %s)%s; %d images go to its replacement.",
            dead.child.returncode,
            f" while it decoded an image, which fails: {failure.code}" if failure else "",
            len(orders),
        )
        if suspect is not None and failure is not None:
            with self._changed:
                sendings = self._end(suspect)
            _send(sendings)
            suspect.done(LoadFailed(failure, Provenance()))
        elif not dead.loaded:
            self._closing.wait(wait_s)
        process = self._restart()
        if process is None:
            return
        for order in orders.values():
            process.orders[process.free.pop()] = order
        with self._changed:
            self._processes[n] = process
            again = [(process, slot, order) for slot, order in process.orders.items()]
            sendings = self._give_out()
            self._changed.notify_all()
        _send(again + sendings)
        if self._closing.is_set():  # it was not there yet when the others were told
            process.hang_up()

    def _judge(self, dead: _Process, note: Note | None, suspect: _Order) -> Failure | None:
        """What the image fails with that was being decoded; None if it deserves another try."""
        if dead.overdue is not None and dead.overdue == note:
            return Failure("decode_timeout", f"more than {self._decode_deadline_s:g} s")
        if dead.child.returncode in CRASHES:
            return Failure("crashed", "the decoder crashed")
        if suspect.deaths:
            return Failure("crashed", "the loader was killed each time that it decoded this image")
        return None

    def _restart(self) -> _Process | None:
        """Tries until a loader can be started; None once the pool is closed."""
        wait_s = FIRST_RESTART_S
        while not self._closing.is_set():
            try:
                return self._start_process()
            except OSError as error:
                log.error("No loader can be started; trying on: %s", error)  # noqa: TRY400
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_S)
        return None


def _send(sendings: Iterable[_Sending]) -> None:
    for process, slot, order in sendings:
        process.send(slot, order)
