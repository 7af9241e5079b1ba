"""A real worker whose loaders have every picture instantly, and whose device takes no time.

    python -m benchmarks.rig.instant_worker BATCH_IMAGES

benchmarks/stage/worker_cpu.py starts it with an installation's environment, so that the main
process is the only limit. It answers each line `{}` of its standard input with its process's CPU
time, by part, and stops when standard input ends. Celery, claims, pool, batches and stores are the
worker's own. Each loader is replaced by a process that writes pixels at once and sends each answer
in its own packet, like a loader that decodes images in sequence.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

import worker.batch.batcher
import worker.pool.process
from benchmarks.rig.child import answer_questions
from benchmarks.rig.simulated_worker import GATHER, REST, THUMBNAILS, Device, Ledger, run
from contract.settings import load_settings
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Provenance
from worker.chunk.task import ChunkTask
from worker.loader.config import LoaderConfig
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
from worker.process.celery_worker import configure_logging
from worker.thumbnail.thumbnails import Thumbnails

CELERY, CLAIM, HAND_OUT, TAKE_IN, BATCH, STORE = (
    "Celery", "claim", "hand out", "take in", "batch", "store",
)  # fmt: skip
PARTS: Final = (CELERY, CLAIM, HAND_OUT, TAKE_IN, BATCH, GATHER, STORE, THUMBNAILS, REST)
# By the start of threads' names.
THREADS: Final = {
    "MainThread": CELERY,
    "ThreadPoolExecutor": CELERY,
    "loader-": TAKE_IN,
    "batcher": BATCH,
    "stragglers": STORE,
    "thumbnails": THUMBNAILS,
}
CAME: Final = Provenance(bytes=108_000, sha256="c3" * 32, format="JPEG", width=640, height=480)
MEASURED: Final = (0.1, 0.001, 0.003)
ANSWER: Final = "--answer"


def answer(descriptor: int, memory: int) -> None:
    """Runs in place of a loader. Ends when its worker closes the connection."""
    connection = socket.socket(fileno=descriptor)
    config = LoaderConfig.decode(connection.recv(MAX_PACKET_BYTES))
    slots = Slots(memory, count=config.slots, crop=config.preprocessing.crop)
    connection.send(READY)
    while packet := connection.recv(MAX_PACKET_BYTES):
        for record in unpack_packet(packet):
            frame = slots.take_frame()
            slots.pixels(frame)[:] = frame % 256
            answered = Answer(unpack_request(record)[0], None, CAME, MEASURED, frame)
            for one in pack_packets([pack_answer(answered)]):
                connection.send(one)


def start_answering(
    _module: str, *arguments: str, inherited: Sequence[int], **_: Any
) -> subprocess.Popen[bytes]:
    """Replaces `worker.loader.sandbox.spawn.spawn`."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rig.instant_worker", ANSWER, *arguments],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def measure(ledger: Ledger) -> None:
    """Counts work for a chunk or a batch under its part, whichever thread does it."""
    for owner, name, part in (
        (ChunkTask, "_claim", CLAIM),
        (ChunkTask, "_load", HAND_OUT),
        (Runs, "store", STORE),
        (Thumbnails, "sampled", THUMBNAILS),
        (Thumbnails, "look", THUMBNAILS),
        (worker.batch.batcher, "_gather", GATHER),
    ):
        setattr(owner, name, ledger.timed(part, getattr(owner, name)))


def main() -> None:
    if sys.argv[1] == ANSWER:
        answer(*map(int, sys.argv[2:]))
        return
    settings = load_settings().model_copy(update={"batch_images": int(sys.argv[1])})
    configure_logging(settings)
    worker.pool.process.spawn = start_answering
    device, ledger = Device(settings, 0.0), Ledger(THREADS)
    measure(ledger)

    def listen_to_parent() -> None:
        answer_questions(lambda: {"cpu_s": ledger.cpu_s()})
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen_to_parent, name="parent", daemon=True).start()
    run(settings, device)


if __name__ == "__main__":
    main()
