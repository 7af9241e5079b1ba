"""How much work is where: every number and formula that bounds the flow from SQL to the device.

    SQL → window → Redis → prefetch → tasks → host places, slots → batch → SQL

The dispatcher asks here for its window, a worker for its prefetch, its host places and the length
of its lines. Settings come in as arguments, and each function is pure.
`docs/flow.md` shows the whole.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

# A job's first chunks are short, so that many workers share a small job. Later ones are longer: a
# chunk costs a message, a claim and a transaction, however many images it has. None is longer than
# a 64th of what comes before it in its job.
FIRST_CHUNK_IMAGES: Final = 64
LONGEST_CHUNK_IMAGES: Final = 256
CHUNKS_BEFORE_LONGER: Final = 128

# Whole chunks that wait in Redis for each worker until its device's rate is known. With fewer a
# worker could not show a higher rate. Later one whole chunk at least waits for each.
CHUNKS_A_WORKER: Final = 8

# One chunk that the device computes and one that loads meanwhile, of a job's first ones; the same
# of batches.
FEWEST_CHUNKS: Final = 2
FEWEST_BATCHES: Final = 2

# Images that may be parked for each one that may be in flight, of one host or of all hosts. They
# last while tasks store and claim, and for a minute or two of a host that hangs.
PARKED_A_PLACE: Final = 4
# A host with a rate has no more images parked than it lets out in this time: a parked image keeps
# its chunk in this worker.
LONGEST_LINE_S: Final = 30.0

# Images that their host had no room for are due again after a random time between these, so that
# they do not come back together.
SHORTEST_DEFERRAL_S: Final = 20.0
LONGEST_DEFERRAL_S: Final = 40.0


class InHand(NamedTuple):
    """What a worker holds: the chunks whose tasks have not ended."""

    chunks: int
    images: int
    """Images that are still to be done."""
    waiting: int
    """Those of them that no loader has begun."""


def chunk_images_at(position: int) -> int:
    """Images of the chunk that begins at this position of a job, where no setting says it."""
    images = FIRST_CHUNK_IMAGES
    while images < LONGEST_CHUNK_IMAGES and position >= CHUNKS_BEFORE_LONGER * images:
        images *= 2
    return images


def count_chunks(images: int, chunk_images: int | None) -> int:
    """Chunks of a job with so many images, by the setting; None: they grow."""
    if chunk_images is not None:
        return ceil(images / chunk_images)
    chunks = position = 0
    while position < images and chunk_images_at(position) < LONGEST_CHUNK_IMAGES:
        position += chunk_images_at(position)
        chunks += 1
    return chunks + ceil(max(0, images - position) / LONGEST_CHUNK_IMAGES)


def window_images(
    *,
    workers: int,
    chunk_images: int,
    window_s: float,
    device_images_s: float,
    done_images_s: float | None,
) -> int:
    """Images of one queue that may wait in Redis.

    It is `window_s` of what the devices could do. Where they wait for the network, it is
    `window_s` of what reaches SQL, since a later job waits for all of the window.

    Args:
        workers: live ones of this queue. With none, the window is that of one.
        chunk_images: images of a whole chunk; of a job's first ones, where they grow.
        window_s: the setting.
        device_images_s: of all workers, while their devices were busy; 0: not known yet.
        done_images_s: of all running jobs; None or 0: not known yet.
    """
    least = max(workers, 1) * chunk_images
    if not device_images_s:
        return CHUNKS_A_WORKER * least
    window = max(least, ceil(window_s * device_images_s))
    if not done_images_s:
        return window
    return min(window, max(CHUNKS_A_WORKER * least, ceil(window_s * done_images_s)))


def prefetch_chunks(  # noqa: PLR0913  (each bounds it)
    in_hand: InHand,
    *,
    in_flight_s: float,
    images_per_s: float,
    images_per_chunk: float,
    free_slots: int,
    batch_images: int,
    most_chunks: int,
) -> int:
    """Chunks that a worker holds at once: `in_flight_s` of what its device does.

    Images count, not chunks: a chunk of which two images are left is the work of two, although its
    task goes on for as long as its patience lasts. And no more images come than the loaders could
    begin: a network that is slower than the device has no use for them. A slow device has two
    short chunks, or one long one until little of it is left: a later job waits for them.

    Args:
        in_hand: what the worker holds now.
        in_flight_s: the setting.
        images_per_s: of the device, while it was busy; 0: not known yet.
        images_per_chunk: of the messages that come, on average.
        free_slots: images that the loaders could begin at once.
        batch_images: of the largest batch.
        most_chunks: the setting, which is the number of task threads.
    """
    fewest = FEWEST_BATCHES * batch_images
    room = max(in_flight_s * images_per_s, fewest) - in_hand.images
    room = min(room, free_slots + fewest - in_hand.waiting)
    least = FEWEST_CHUNKS * FIRST_CHUNK_IMAGES - in_hand.images
    chunks = max(
        in_hand.chunks + ceil(room / images_per_chunk),
        min(FEWEST_CHUNKS, in_hand.chunks + ceil(least / images_per_chunk)),
        1,
    )
    return min(chunks, most_chunks)


def host_places(*, slots: int, fetches_per_host: int) -> int:
    """Images of one host in flight at once: half of the slots at most, so others have the rest."""
    return max(1, min(fetches_per_host, slots // 2))


def line_images(places: int, *, images_per_s: float | None) -> int:
    """Images of one host that may be parked; `images_per_s` is the host's rate, if it has one."""
    line = PARKED_A_PLACE * places
    if images_per_s is None:
        return line
    return min(line, max(1, int(images_per_s * LONGEST_LINE_S)))


def parked_images(*, slots: int) -> int:
    """Images of all hosts that may be parked."""
    return PARKED_A_PLACE * slots
