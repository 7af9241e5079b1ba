"""A loader process: fetches, decodes and crops images into memory that it shares with the worker.

Started by `worker.pool.process` as `worker.loader.program SOCKET MEMORY`, two descriptors that it
inherits, inside `worker.loader.sandbox.start`. It holds no credentials but an object store's that
is enabled, imports no torch but for `RESNEXT_DECODE=fast`, and touches no CUDA; a crash in a
decoder costs this process and one image. It ends when the worker's end of the socket closes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Self

from contract.failure import Failure
from resnext.picture.decode import DecodeError, DecodeLimits, Route, decode
from resnext.picture.preprocess import Preprocessing
from worker.chunk.outcome import Measured, Provenance
from worker.loader.fetch.fetcher import HELPERS_A_FETCH, Fetched, Fetcher, FetchError, FetchLimits
from worker.pool.slots import Slots
from worker.pool.wire import (
    MAX_PACKET_BYTES,
    Done,
    pack_done,
    pack_packets,
    unpack_load,
    unpack_packet,
)

if TYPE_CHECKING:  # a loader starts without pydantic
    from contract.settings import Settings

# Loaders never take the core that feeds the GPU.
NICENESS: Final = 10
# Address space: Python and its libraries, each thread's stack, the largest bodies of a few fetches,
# and for each pixel of the largest image what Pillow and a decoder hold at their worst: of an
# animated WebP two canvases and a copy, the picture, and the one without alpha, of 4 bytes each.
BASE_BYTES: Final = 2 * 2**30
STACK_BYTES: Final = 2**20
LARGEST_BODIES: Final = 32
BYTES_A_PIXEL: Final = 24
# What `RESNEXT_DECODE=fast` brings in: CUDA's libraries are mapped, although nothing uses them.
TORCH_BYTES: Final = 16 * 2**30
# obstore's threads: one for each core, and one for each name that is being looked up.
OBJECT_STORE_BYTES: Final = 2**29
# A connection takes up to three descriptors; the usual limit of 1024 is made for `select`.
MOST_DESCRIPTORS: Final = 16 * 1024
_NO_MEMORY: Final = Failure("timeout", "the loader had no memory left for it")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """All that a loader knows; the first packet that it gets, in JSON."""

    fetch: FetchLimits
    decoding: DecodeLimits
    preprocessing: Preprocessing
    route: Route
    slots: int

    @classmethod
    def of(cls, settings: Settings, preprocessing: Preprocessing) -> Self:
        return cls(
            fetch=FetchLimits(
                fetch_allow=settings.fetch_allow,
                fetch_ports=settings.fetch_ports,
                file_roots=settings.file_roots,
                fetch_deadline_s=settings.fetch_deadline_s,
                max_image_bytes=settings.max_image_bytes,
                max_redirects=settings.max_redirects,
                robots=settings.robots,
                contact=settings.contact,
                object_stores=settings.object_stores,
                object_store_access=settings.object_store_access,
                s3_endpoint=settings.s3_endpoint,
                gcs_endpoint=settings.gcs_endpoint,
            ),
            decoding=DecodeLimits(
                max_pixels=settings.max_pixels,
                max_side_pixels=settings.max_side_pixels,
                truncated=settings.truncated,
            ),
            preprocessing=preprocessing,
            route=settings.decode,
            slots=settings.fetches_per_loader,
        )

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        fields: dict[str, Any] = json.loads(packet)
        fetch = fields["fetch"]
        fetch["fetch_allow"] = tuple(fetch["fetch_allow"])
        fetch["fetch_ports"] = tuple(fetch["fetch_ports"])
        fetch["object_stores"] = tuple(fetch["object_stores"])
        fetch["file_roots"] = tuple(Path(root) for root in fetch["file_roots"])
        return cls(
            fetch=FetchLimits(**fetch),
            decoding=DecodeLimits(**fields["decoding"]),
            preprocessing=Preprocessing(**fields["preprocessing"]),
            route=fields["route"],
            slots=fields["slots"],
        )

    @property
    def address_space_bytes(self) -> int:
        threads = 1 + 2 * HELPERS_A_FETCH  # it fetches; the others look names up and read files
        bodies = min(self.slots, LARGEST_BODIES) * 2 * self.fetch.max_image_bytes
        stacks = self.slots * threads * STACK_BYTES
        torch = TORCH_BYTES if self.route == "fast" else 0
        objects = OBJECT_STORE_BYTES if self.fetch.object_stores else 0
        pixels = self.decoding.max_pixels * BYTES_A_PIXEL
        return BASE_BYTES + torch + objects + stacks + bodies + pixels


class Stopwatch:
    """The stages of one image, one after the other, in the order of `STAGES`."""

    def __init__(self) -> None:
        self._stages_s: list[float] = []
        self._began_at = time.monotonic()

    def next_stage(self) -> None:
        """One is over, and the next one begins."""
        now = time.monotonic()
        self._stages_s.append(now - self._began_at)
        self._began_at = now

    def measured(self) -> Measured:
        """Of the stages that are over."""
        return tuple(self._stages_s)


class Loader:
    """One fetch thread for each slot that is used, and one that decodes, so that a crash names its
    image.

    A thread of its own rather than whichever has fetched: it stays on its core, and its core in
    work, where one that is woken for each image may be put beside the next loader's.
    """

    def __init__(self, connection: socket.socket, slots: Slots, config: LoaderConfig) -> None:
        self._connection = connection
        self._slots = slots
        self._config = config
        self._fetcher = Fetcher(config.fetch, threads=config.slots)
        self._sending = threading.Lock()
        self._orders: SimpleQueue[tuple[int, str, Path | None]] = SimpleQueue()
        self._fetched: SimpleQueue[tuple[int, Fetched, Stopwatch]] = SimpleQueue()
        self._answers: deque[bytes] = deque()

    def run(self) -> None:
        """Until the worker is gone."""
        _start("decode", self._decode_next)
        fetch_threads = 0
        while packet := self._connection.recv(MAX_PACKET_BYTES):
            for order in map(unpack_load, unpack_packet(packet)):
                self._orders.put(order)
                highest_slot, _, _ = order
                for n in range(fetch_threads, highest_slot + 1):
                    _start(f"fetch-{n}", self._fetch_next)
                fetch_threads = max(fetch_threads, highest_slot + 1)

    def _fetch_next(self) -> None:
        slot, uri, root = self._orders.get()
        failed = _settle(slot, partial(self._fetch, slot, uri, root))
        if failed is not None:
            self._send(failed)

    def _decode_next(self) -> None:
        slot, fetched, watch = self._fetched.get()
        done = _settle(slot, partial(self._decode, slot, fetched, watch))
        if done is not None:
            self._send(done)

    def _send(self, done: Done) -> None:
        """All answers that are ready: who has waited for the lock may find his own sent."""
        self._answers.append(pack_done(done))
        with self._sending:
            ready = [self._answers.popleft() for _ in range(len(self._answers))]
            try:
                for packet in pack_packets(ready):
                    self._connection.send(packet)
            except OSError:  # the worker is gone
                os._exit(0)

    def _fetch(self, slot: int, uri: str, root: Path | None) -> Done | None:
        """None if it is to be decoded."""
        watch = Stopwatch()
        try:
            fetched = self._fetcher.fetch(uri, root)
        except FetchError as error:
            watch.next_stage()
            return Done(slot, error.failure, Provenance(), watch.measured())
        watch.next_stage()
        self._fetched.put((slot, fetched, watch))
        return None

    def _decode(self, slot: int, fetched: Fetched, watch: Stopwatch) -> Done:
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
            )
            self._slots.pixels(slot)[:] = decoded.pixels
        except DecodeError as error:
            watch.next_stage()
            width, height = error.size or (None, None)
            came = replace(came, format=error.format, width=width, height=height)
            return Done(slot, _failure_of(error), came, watch.measured())
        finally:
            self._slots.note(None)
        watch.next_stage()
        came = replace(came, format=decoded.format, width=decoded.width, height=decoded.height)
        return Done(slot, None, came, watch.measured())


def _start(name: str, work: Callable[[], None]) -> None:
    """A thread that does it again and again. One that died would keep its slot, and the run that
    waits for it, for ever: rather the process ends, and its successor gets what is not answered.
    """

    def run() -> None:
        try:
            while True:
                work()
        except BaseException:  # noqa: BLE001  (want of memory, as a rule)
            os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


def _settle(slot: int, work: Callable[[], Done | None]) -> Done | None:
    """What it returns, or what its image fails with."""
    try:
        return work()
    except MemoryError:  # too many large images at once: later there will be room
        return Done(slot, _NO_MEMORY, Provenance())
    except BaseException as error:  # noqa: BLE001  (whatever it is, it costs this image alone)
        return Done(slot, Failure("internal", f"loader: {error!r}"), Provenance())


def _failure_of(error: DecodeError) -> Failure:
    """Where a small picture finds no memory, others' bodies have it: later there will be room."""
    width, height = error.size or (0, 0)
    needed_bytes = width * height * BYTES_A_PIXEL
    if isinstance(error.__cause__, MemoryError) and 0 < needed_bytes < BASE_BYTES // 2:
        return _NO_MEMORY
    return Failure(error.code, error.detail)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to answer
    os.nice(NICENESS)
    connection = socket.socket(fileno=int(sys.argv[1]))
    packet = connection.recv(MAX_PACKET_BYTES)
    if not packet:
        return
    config = LoaderConfig.decode(packet)
    if config.route == "fast":
        import resnext.picture.decode_fast  # noqa: F401, PLC0415  (takes longer than an image may)
    threading.stack_size(STACK_BYTES)
    limit = config.address_space_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _permit_descriptors()
    _mute_decoders()
    slots = Slots(int(sys.argv[2]), count=config.slots, crop=config.preprocessing.crop)
    Loader(connection, slots, config).run()
    os._exit(0)  # without waiting for look-ups and files that hang


def _permit_descriptors() -> None:
    """As many as are needed, or as few as the system permits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(MOST_DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _mute_decoders() -> None:
    """No more lines of C libraries in the log: libtiff writes one for each row that is damaged,
    and a hostile file may have a million of them. Python's own still come out.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_RDONLY)  # inside the sandbox nothing is opened to write
    os.dup2(nowhere, 2)
    os.close(nowhere)
    logging.getLogger("PIL").addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
