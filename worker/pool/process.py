"""One life of a loader, seen from the worker: its process, its socket, its slots and its orders.

`worker.pool.pool` starts one, gives it orders under the lock of the pool, and buries it;
`worker.pool.reader` reads its answers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from contract.settings import Settings
from worker.loader.fetch import object_store
from worker.loader.program import LoaderConfig
from worker.loader.sandbox.start import command, write_permitted
from worker.pool.slots import Note, Slots
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    BadRecord,
    Done,
    pack_load,
    pack_packets,
    unpack_done,
    unpack_packet,
)

log = logging.getLogger(__name__)

# A loader gets no more of our environment than this: there may be secrets in it.
KEPT_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "LC_ALL", "TZ", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
     "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "RES_OPTIONS"}
)  # fmt: skip
# Each of glibc's arenas takes 64 MiB of address space, of which a loader has a limited amount; it
# decodes one image at a time, so threads that wait for each other's allocations cost nothing.
# Nor do numpy's own threads, which would be there before the sandbox where torch is.
ADDED_VARIABLES: Final = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
# By the route of `RESNEXT_DECODE`: torch looks for a compiler and a folder to write to.
LOADED_FIRST: Final = {"exact": "", "fast": "resnext.picture.decode_fast"}
END_WITHIN_S: Final = 2.0
# How a process ends that its own code has ended. Any other end (SIGKILL, for want of memory or by
# a person) may be no fault of the image that it was decoding.
CRASHES: Final = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
# One that takes no order for so long is broken, or not ours any more: the reader of all loaders
# would wait for it. As the kernel wants it: seconds and microseconds.
_SEND_WITHIN: Final = struct.pack("ll", 10, 0)
# So often a loader is looked at within the time that it may decode one image.
LOOKS: Final = 20
# Until its first answer a loader has to start as well, slowly where a machine has much else to do.
START_WITHIN_S: Final = 60.0


@dataclass(slots=True)  # not frozen, which is slower to make
class Order:
    """An image that is to be loaded; nobody changes it."""

    key: Any
    """What `done` is told that it is."""
    uri: str
    root: Path | None
    host: str | None
    done: Callable[[list[tuple[Any, Any]]], None]
    """Called with the keys and the loads of some of its images."""
    deaths: int = 0
    """Loaders that something else ended while they decoded it."""


@dataclass(eq=False)
class LoaderProcess:
    """Its slots are free, ordered, or hold pixels to be released: the pool's lock guards them."""

    child: subprocess.Popen[bytes]
    connection: socket.socket
    slots: Slots
    free: list[int]
    orders: dict[int, Order] = field(default_factory=dict)
    loaded: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    """Nobody reads its answers any more."""
    distrusted: bool = False
    """It has said what no loader of ours would, and was killed for it."""
    seen: Note | None = None
    """What it was decoding when it was last looked at."""
    looks: int = 0
    """How often it has been found at that since."""
    overdue: Note | None = None
    """What it decoded for too long, and was killed for."""
    heard: int = 0
    """How much it had loaded when it was last looked at."""
    silent_looks: int = 0
    """How often it has been found with orders, and with no answer since the look before."""
    mute: bool = False
    """It answered nothing for too long, and was killed for it."""

    def assign(self, order: Order) -> tuple[int, Order]:
        """A free slot is the order's, which is then to be sent."""
        slot = self.free.pop()
        self.orders[slot] = order
        return slot, order

    def send(self, assigned: Iterable[tuple[int, Order]]) -> None:
        """Without the lock."""
        records = [pack_load(slot, order.uri, order.root) for slot, order in assigned]
        try:
            for packet in pack_packets(records):
                self.connection.send(packet)
        except OSError:  # it is dead, or reads no more: its orders go to the replacement
            self.child.kill()

    def receive(self) -> tuple[list[Done], bool]:
        """All answers that are there, and whether more may come: not of a loader that is gone,
        or that says what no loader of ours would.
        """
        answers: list[Done] = []
        try:
            for _ in range(self.slots.count):  # so that none keeps the others waiting
                packet = self.connection.recv(MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
                if not packet:
                    return answers, False
                answers += map(unpack_done, unpack_packet(packet))
        except BlockingIOError:
            pass
        except OSError:
            return answers, False
        except BadRecord as error:
            self.distrust(error)
            return answers, False
        return answers, True

    def distrust(self, error: BadRecord) -> None:
        """It is broken, or not ours any more."""
        log.error("A loader sent %s; it is replaced.", error)
        self.distrusted = True
        self.child.kill()

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

    def listen(self, most_looks: int) -> None:
        """Kills it if it has had orders for so many looks and answered none of them.

        Each look of `look` is followed by one of these, and counted for the same reason.
        """
        answered = self.loaded != self.heard
        self.silent_looks = 0 if answered or not self.orders else self.silent_looks + 1
        self.heard = self.loaded
        if self.silent_looks >= most_looks and self.overdue is None:
            self.mute = True
            self.child.kill()

    def hang_up(self) -> None:
        """It ends, and whoever reads its answers hears of it."""
        with suppress(OSError):  # it died, and its connection has been closed
            self.connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.connection.close()
        try:
            self.child.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


@dataclass(frozen=True)
class Surroundings:
    """What a loader finds around it, each time that it is started."""

    variables: dict[str, str]
    permitted: tuple[Path, ...] | None
    """What it may read besides its libraries; None: there is no sandbox."""

    @classmethod
    def of(cls, settings: Settings, named: Iterable[Path]) -> Self:
        """
        Args:
            settings: of sandbox, files and object stores.
            named: paths that may be read besides.

        Raises:
            UsageError: an object store is enabled and not installed.
        """
        kept = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
        credentials = object_store.environment(settings)
        files = object_store.credential_files(credentials)
        permitted = (*settings.file_roots, *named, *files)
        return cls(
            kept | credentials | ADDED_VARIABLES, None if settings.sandbox == "off" else permitted
        )


def start_process(config: LoaderConfig, surroundings: Surroundings) -> LoaderProcess:
    """
    Raises:
        OSError: the system has no room for it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as failed, ExitStack() as passed_on:
        failed.callback(ours.close)
        passed_on.callback(theirs.close)
        memory = Slots.make(count=config.slots, crop=config.preprocessing.crop)
        passed_on.callback(os.close, memory)
        permitted = None
        if surroundings.permitted is not None:
            permitted = write_permitted(surroundings.permitted)
            passed_on.callback(os.close, permitted)
        inherited, first = (theirs.fileno(), memory), LOADED_FIRST[config.route]
        child = subprocess.Popen(
            command(
                "worker.loader.program", *map(str, inherited), permitted=permitted, first=first
            ),
            pass_fds=inherited if permitted is None else (*inherited, permitted),
            env=surroundings.variables,
            stdin=subprocess.DEVNULL,
        )
        slots = Slots(memory, count=config.slots, crop=config.preprocessing.crop)
        failed.pop_all()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_WITHIN)
    with suppress(OSError):  # it has died already, which its reader finds out
        ours.send(config.encode())
    # The lowest first, and what was used last: the others' memory and threads may never be needed.
    return LoaderProcess(child, ours, slots, free=list(reversed(range(config.slots))))
