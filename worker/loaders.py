"""The worker's side of the loaders: gives images out, takes them in, replaces who has died.

Tasks call `load`, which waits while every slot is taken: that is what holds back the
messages. A slot is one image, from its URI to the moment when the batcher has copied its
pixels. A thread for each loader reads the answers and calls back; one more for all of them
ends those that decode one image for too long.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from contract.error_codes import Failure
from contract.settings import Settings
from resnext.preprocess import Preprocessing
from resnext.resample import Pixels
from worker.loader import LoaderConfig
from worker.outcome import NOT_MEASURED, Measured, Provenance
from worker.records import MAX_RECORD_BYTES, BadRecord, Done, pack_load, unpack_done
from worker.slots import Note, Slots

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
# So often a loader is looked at within the time that it may decode one image.
LOOKS: Final = 20


class PoolClosed(Exception):
    """The worker stops: nothing is loaded any more."""


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


class LoaderPool:
    """Owns the loader processes and the slots. `load` is safe for many threads."""

    def __init__(self, settings: Settings, preprocessing: Preprocessing) -> None:
        self._config = LoaderConfig.of(settings, preprocessing)
        self._decode_deadline_s = settings.decode_deadline_s
        self._changed = threading.Condition()
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

    def load(self, uri: str, done: Callback, *, root: Path | None = None) -> None:
        """Gives an image to the loader with the most free slots; waits until there is one.

        `root` is a file or folder that is permitted besides `file_roots`, for this image.

        `done` is called once, from a thread of the pool; it must not block. Nothing is called
        after `close`.

        Raises:
            PoolClosed: `stop_accepting` or `close` has been called.
        """
        order = _Order(uri, root, done)
        with self._changed:
            while (process := self._roomiest()) is None:
                self._changed.wait()
            slot = process.free.pop()
            process.orders[slot] = order
        process.send(slot, order)

    def stop_accepting(self) -> None:
        """Whoever waits in `load` is told as well; what is loading goes on."""
        with self._changed:
            self._accepting = False
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the processes."""
        with self._changed:
            self._accepting = False
            self._closing.set()
            processes = [process for process in self._processes if process is not None]
            self._changed.notify_all()
        for process in processes:
            process.hang_up()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _roomiest(self) -> _Process | None:
        if not self._accepting:
            raise PoolClosed
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
        process.loaded += 1
        if done.failure is not None:
            self._release(process, done.slot)
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
            self._changed.notify()

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
            again = list(process.orders.items())
            self._changed.notify_all()
        for slot, order in again:
            process.send(slot, order)
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
