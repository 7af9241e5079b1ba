"""The worker's view of one loader process: its socket, its slots and its requests.

`worker.pool.replacement` starts, watches and ends it. `worker.pool.scheduler` gives it requests,
under the pool's lock. `worker.pool.reader` reads its answers.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker.loader.config import LoaderConfig
from worker.loader.sandbox.spawn import spawn, write_permitted
from worker.pool.cpu_time import cpu_s_of
from worker.pool.environment import LoaderEnvironment
from worker.pool.loader_log import LoaderLog
from worker.pool.quarantine import Quarantine
from worker.pool.request import LoadRequest
from worker.pool.slots import Note, Slots
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    READY,
    Answer,
    BadRecord,
    pack_packets,
    pack_request,
    unpack_answer,
    unpack_packet,
)

log = logging.getLogger(__name__)

# The module to load before the sandbox starts, by `RESNEXT_DECODE`. `fast` needs torch, which looks
# for a compiler and for a folder that it can write to.
LOADED_FIRST: Final = {"exact": "", "fast": "resnext.picture.decode_fast"}
END_WITHIN_S: Final = 2.0
# A loader that takes no request for this long is broken or taken over, and the reader of all
# loaders would wait for it. Seconds and microseconds, in the kernel's form.
_SEND_WITHIN: Final = struct.pack("ll", 10, 0)
# How often the pool checks a loader during the time limit for decoding one image.
LOOKS: Final = 20
# The time limit by the clock, as a multiple of the limit in processor time. Loaders have a low
# priority, so they wait on a busy machine.
WALL_FACTOR: Final = 5
# Before its first answer a loader must also start, which takes long on a busy machine.
START_WITHIN_S: Final = 60.0


@dataclass(eq=False)
class LoaderProcess:
    """A loader. Each of its slots is free, has a request, or holds pixels. The pool's lock guards
    all three.
    """

    child: subprocess.Popen[bytes]
    connection: socket.socket
    slots: Slots
    free: list[int]
    log: LoaderLog
    """Its standard error."""
    most_threads: int
    """A loader with more threads was taken over."""
    requests: dict[int, LoadRequest] = field(default_factory=dict)
    """Requests in flight, by slot."""
    quarantine: Quarantine | None = None
    answered: int = 0
    ready: bool = False
    """Whether it has started and gets requests."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the reader no longer reads its answers."""
    distrusted: bool = False
    """Whether it was killed because it sent something that no intact loader sends."""
    overdue: Note | None = None
    """The decode for which it was killed, because it took too much processor time."""
    stalled: Note | None = None
    """The decode for which it was killed, because it took too long. The image may be sound."""
    mute: bool = False
    """Whether it was killed because it sent no answer for too long."""
    _last_note: Note | None = None
    _looks_at_note: int = 0
    _cpu_s_at_note: float = 0.0
    _last_answered: int = 0
    _silent_looks: int = 0
    _unsent: list[bytes] = field(default_factory=list)
    _starting: threading.Lock = field(default_factory=threading.Lock)
    """Guards `_unsent`, and `ready` while it is False."""

    def assign(self, requests: Sequence[LoadRequest]) -> list[tuple[int, LoadRequest]]:
        """Takes a free slot for each request. The caller must then send them."""
        kept = len(self.free) - len(requests)
        slots = reversed(self.free[kept:])
        assigned = list(zip(slots, requests, strict=True))
        del self.free[kept:]
        self.requests.update(assigned)
        return assigned

    def begin_suspects(self) -> list[tuple[int, LoadRequest]]:
        """Assigns as many requests in quarantine as the limit allows. Ends the quarantine when all
        of them have an answer.
        """
        assigned: list[tuple[int, LoadRequest]] = []
        if self.quarantine is None:
            return assigned
        limit = self.quarantine.in_flight_limit(self.answered)
        while self.quarantine.waiting and self.free and len(self.requests) < limit:
            assigned += self.assign([self.quarantine.waiting.popleft()])
        if not self.requests:
            self.quarantine = None
        return assigned

    def send(self, assigned: Iterable[tuple[int, LoadRequest]]) -> None:
        """Sends requests, or keeps them until the loader is ready, so that no image is blamed for a
        loader that cannot start. Call this without the pool's lock.
        """
        records = [pack_request(slot, request.uri, request.root) for slot, request in assigned]
        if not self.ready:
            with self._starting:
                if not self.ready:
                    self._unsent += records
                    return
        self._send(records)

    def receive(self) -> tuple[list[Answer], bool]:
        """Returns the available answers, and whether more may come. None come from a loader that is
        gone, or that has sent something that no intact loader sends.
        """
        answers: list[Answer] = []
        try:
            for _ in range(self.slots.count):  # so that the other loaders get their turn
                packet = self.connection.recv(MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
                if not packet:
                    return answers, False
                if self.ready:
                    answers += map(unpack_answer, unpack_packet(packet))
                else:
                    self._begin(packet)
        except BlockingIOError:
            pass
        except OSError:
            return answers, False
        except BadRecord as error:
            self.distrust(f"sent {error}")
            return answers, False
        return answers, True

    def distrust(self, what: str) -> None:
        """Kills the loader, because it did something that no intact loader does."""
        log.error("A loader %s. It will be replaced.", what)
        self.distrusted = True
        self.child.kill()

    def look(self, decode_s: float) -> None:
        """Kills the loader if the current decode has taken `decode_s` of processor time, or is not
        done after LOOKS * WALL_FACTOR looks, or if the loader has too many threads.

        The second limit counts looks instead of reading a clock. After a pause of the whole machine
        a clock would show that everything took too long.
        """
        note = self.slots.noted()
        cpu_s = cpu_s_of(self.child.pid)
        if note is None or note != self._last_note:
            self._last_note, self._looks_at_note, self._cpu_s_at_note = note, 0, cpu_s
        else:
            self._looks_at_note += 1
            if cpu_s - self._cpu_s_at_note >= decode_s:
                self.overdue = note
            elif self._looks_at_note >= LOOKS * WALL_FACTOR:
                self.stalled = note
        if self.overdue or self.stalled:
            self.child.kill()
        elif not self.distrusted and (threads := count_threads(self.child.pid)) > self.most_threads:
            self.distrust(f"has {threads} threads")

    def listen(self, most_looks: int) -> None:
        """Kills the loader if it has had requests for `most_looks` looks without any answer.

        Call this after each `look`. It counts looks for the same reason.
        """
        answered = self.answered != self._last_answered
        self._silent_looks = 0 if answered or not self.requests else self._silent_looks + 1
        self._last_answered = self.answered
        condemned = self.overdue or self.stalled
        if self._silent_looks >= most_looks and condemned is None:
            self.mute = True
            self.child.kill()

    def hang_up(self) -> None:
        """Closes the connection at both ends. Then the loader ends, and the reader drops it."""
        with suppress(OSError):  # the loader has died, and its connection is closed
            self.connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Returns when the process is gone."""
        self.connection.close()
        try:
            self.child.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _begin(self, packet: bytes) -> None:
        """Takes the first packet, and sends the kept requests.

        Raises:
            BadRecord: the first packet is not `READY`.
        """
        if packet != READY:
            raise BadRecord("an answer before it was ready")
        with self._starting:
            self.ready = True
            records, self._unsent = self._unsent, []
        self._send(records)

    def _send(self, records: Iterable[bytes]) -> None:
        try:
            for packet in pack_packets(records):
                self.connection.send(packet)
        except OSError:  # it is dead or does not read: its requests go to its replacement
            self.child.kill()


def start_process(config: LoaderConfig, environment: LoaderEnvironment) -> LoaderProcess:
    """Starts a loader.

    Raises:
        OSError: the system permits no further process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as failed, ExitStack() as passed_on:
        failed.callback(ours.close)
        passed_on.callback(theirs.close)
        memory = Slots.make(count=config.slots, crop=config.preprocessing.crop)
        passed_on.callback(os.close, memory)
        permitted = None
        if environment.readable is not None:
            permitted = write_permitted(environment.readable)
            passed_on.callback(os.close, permitted)
        inherited = (theirs.fileno(), memory)
        child = spawn(
            "worker.loader.program",
            *map(str, inherited),
            inherited=inherited,
            permitted=permitted,
            variables=environment.variables,
            first=LOADED_FIRST[config.route],
        )
        slots = Slots(memory, count=config.slots, crop=config.preprocessing.crop)
        failed.pop_all()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_WITHIN)
    with suppress(OSError):  # it has died already; the reader will notice
        ours.send(config.encode())
    # The lowest slots are used first, and a freed slot is used again first, because the others may
    # then never need memory or threads.
    return LoaderProcess(
        child,
        ours,
        slots,
        free=list(reversed(range(config.slots))),
        log=LoaderLog(child),
        most_threads=config.most_threads,
    )


def count_threads(process: int) -> int:
    """The number of threads of a process; 0 if /proc does not show it."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2]
    except OSError:
        return 0
    return int(fields.split()[17])  # `num_threads` in proc(5); field 0 here is the state
