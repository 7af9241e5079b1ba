"""A loader process: fetches, decodes and crops images into memory that it shares with the worker.

`worker.pool.process` starts it as `worker.loader.program SOCKET MEMORY`, two inherited descriptors,
inside `worker.loader.sandbox.start`. It holds no credentials, except for enabled object stores. It
does not use CUDA, and imports torch only for `RESNEXT_DECODE=fast`. A crash in a decoder costs this
process and one image. The process ends when the worker closes the socket.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

from contract.failure import Failure
from resnext.picture.decode import DecodeError, decode
from worker.chunk.outcome import Measured, Provenance
from worker.loader.config import (
    BASE_BYTES,
    BYTES_A_PIXEL,
    MOST_DESCRIPTORS,
    STACK_BYTES,
    LoaderConfig,
)
from worker.loader.fetch.failures import NO_MEMORY
from worker.loader.fetch.fetcher import Fetched, Fetcher
from worker.loader.fetch.loop import Loop
from worker.pool.slots import Slots
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    READY,
    Answer,
    pack_answer,
    pack_packets,
    unpack_packet,
    unpack_request,
)

# A low priority, so that loaders do not take the core that feeds the GPU.
NICENESS: Final = 10


class Stopwatch:
    """Times the stages of one image, in the order of `STAGES`."""

    def __init__(self) -> None:
        self._stages_s: list[float] = []
        self._began_at = time.monotonic()

    def next_stage(self) -> None:
        """Ends a stage and begins the next one."""
        now = time.monotonic()
        self._stages_s.append(now - self._began_at)
        self._began_at = now

    def measured(self) -> Measured:
        """The seconds of the finished stages."""
        return tuple(self._stages_s)


class Loader:
    """Fetches in its loop and decodes in a single other thread, so that a crash has one suspect."""

    def __init__(self, connection: socket.socket, slots: Slots, config: LoaderConfig) -> None:
        self._connection = connection
        self._slots = slots
        self._config = config
        self._loop = Loop()
        self._fetcher = Fetcher(config.fetch, self._loop, slots=config.slots)
        self._worker_gone = False
        self._sending = threading.Lock()
        self._fetched: SimpleQueue[tuple[int, Fetched, Stopwatch]] = SimpleQueue()
        self._answers: deque[bytes] = deque()

    def run(self) -> None:
        """Runs until the worker is gone."""
        _start("decode", self._decode_next)
        self._loop.watch(self._connection.fileno(), select.EPOLLIN, self._take_requests)
        try:
            self._connection.send(READY)
        except BrokenPipeError:  # the worker is gone
            return
        while not self._worker_gone:
            self._loop.turn()
            if self._answers:  # failures of this turn share packets
                self._send()

    def _take_requests(self, _: int) -> None:
        packet = self._connection.recv(MAX_PACKET_BYTES)
        self._worker_gone = not packet
        for slot, uri, root in map(unpack_request, unpack_packet(packet)):
            self._fetcher.begin(uri, root, partial(self._take, slot, Stopwatch()))

    def _take(self, slot: int, watch: Stopwatch, came: Fetched | Failure) -> None:
        watch.next_stage()
        if isinstance(came, Failure):
            answer = Answer(slot, came, Provenance(), watch.measured())
            self._answers.append(pack_answer(answer))
        else:
            self._fetched.put((slot, came, watch))

    def _decode_next(self) -> None:
        slot, fetched, watch = self._fetched.get()
        answer = _answer(slot, partial(self._decode, slot, fetched, watch))
        self._answers.append(pack_answer(answer))
        self._send()

    def _send(self) -> None:
        """Sends all answers that are ready, unless the other thread has sent them."""
        with self._sending:
            ready = [self._answers.popleft() for _ in range(len(self._answers))]
            try:
                for packet in pack_packets(ready):
                    self._connection.send(packet)
            except OSError:  # the worker is gone
                os._exit(0)

    def _decode(self, slot: int, fetched: Fetched, watch: Stopwatch) -> Answer:
        body = fetched.body
        came = Provenance(
            final_uri=fetched.final_uri, bytes=len(body), sha256=hashlib.sha256(body).hexdigest()
        )
        watch.next_stage()
        self._slots.note(slot)
        try:
            decoded = decode(
                body,
                limits=self._config.decoding,
                preprocessing=self._config.preprocessing,
                route=self._config.route,
                orientation=self._config.orientation,
            )
            frame = self._slots.take_frame()
            self._slots.pixels(frame)[:] = decoded.pixels
        except DecodeError as error:
            watch.next_stage()
            width, height = error.size or (None, None)
            came = came._replace(format=error.format, width=width, height=height)
            return Answer(slot, _failure_of(error), came, watch.measured())
        finally:
            self._slots.note(None)
        watch.next_stage()
        came = came._replace(format=decoded.format, width=decoded.width, height=decoded.height)
        return Answer(slot, None, came, watch.measured(), frame)


def _start(name: str, work: Callable[[], None]) -> None:
    """Starts a thread that repeats this work. If the thread dies, it ends the process. Otherwise
    its slot would be blocked for ever. The next loader gets the images without an answer.
    """

    def run() -> None:
        try:
            while True:
                work()
        except BaseException:  # noqa: BLE001  (usually memory has run out)
            os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


def _answer(slot: int, work: Callable[[], Answer]) -> Answer:
    """Returns the work's answer, or a failure if it raises."""
    try:
        return work()
    except MemoryError:  # too many large images at once; a retry may have enough memory
        return Answer(slot, NO_MEMORY, Provenance())
    except BaseException as error:  # noqa: BLE001  (any error costs only this image)
        return Answer(slot, Failure("internal", f"loader: {error!r}"), Provenance())


def _failure_of(error: DecodeError) -> Failure:
    """Returns the failure. A small picture that gets no memory is retried."""
    width, height = error.size or (0, 0)
    needed_bytes = width * height * BYTES_A_PIXEL
    if isinstance(error.__cause__, MemoryError) and 0 < needed_bytes < BASE_BYTES // 2:
        return NO_MEMORY
    return Failure(error.code, error.detail)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker
    os.nice(NICENESS)
    connection = socket.socket(fileno=int(sys.argv[1]))
    packet = connection.recv(MAX_PACKET_BYTES)
    if not packet:
        return
    config = LoaderConfig.decode(packet)
    if config.route == "fast":
        import resnext.picture.decode_fast  # noqa: F401, PLC0415  (slow, so not during a decode)
    threading.stack_size(STACK_BYTES)
    limit = config.address_space_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _permit_descriptors()
    _mute_decoders()
    slots = Slots(int(sys.argv[2]), count=config.slots, crop=config.preprocessing.crop)
    loader = Loader(connection, slots, config)
    try:
        loader.run()
    except BaseException:  # noqa: BLE001  (the next loader gets the images without an answer)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # does not wait for hanging look-ups and files


def _permit_descriptors() -> None:
    """Raises the limit of descriptors to what a loader needs, if the system permits it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(MOST_DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _mute_decoders() -> None:
    """Keeps messages of C libraries out of the log, but not Python's. libtiff writes a line for
    each damaged row, and a hostile file may have a million.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_RDONLY)  # the sandbox opens no file for writing
    os.dup2(nowhere, 2)
    os.close(nowhere)
    logging.getLogger("PIL").addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
