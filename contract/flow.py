"""How much work is where: all numbers and formulas that bound the flow from SQL to the device.

    SQL → window → Redis → prefetch → tasks → host places, slots → batch → SQL

The dispatcher gets its window here, and a worker its prefetch, its host places and the length of
its lines. Settings are arguments, and each function is pure. `docs/flow.md` explains all of it.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

# A job's first chunks are short, so that many workers share a small job. Later ones are longer,
# because a chunk costs a message, a claim and a transaction, whatever its length. A longer chunk
# has at most a 64th of the images before it in its job.
FIRST_CHUNK_IMAGES: Final = 64
LONGEST_CHUNK_IMAGES: Final = 256
CHUNKS_BEFORE_LONGER: Final = 128

# Whole chunks that wait in Redis per worker until the devices' rate is known. With fewer, a worker
# could not show a higher rate. Later at least one whole chunk per worker waits.
CHUNKS_A_WORKER: Final = 8

# One chunk that the device computes and one that loads meanwhile, both of the first length; the
# same for batches.
FEWEST_CHUNKS: Final = 2
FEWEST_BATCHES: Final = 2

# Images that may be parked per image that may be in flight, for one host and for all hosts. They
# are enough while tasks store and claim, and for a minute or two while a host hangs.
PARKED_A_PLACE: Final = 4
# A host with a rate parks no more images than it starts in this time, because a parked image keeps
# its chunk in this worker.
LONGEST_LINE_S: Final = 30.0

# If a host has no room for images, they are due again after a random time between these two, so
# that they do not all come back at once.
SHORTEST_DEFERRAL_S: Final = 20.0
LONGEST_DEFERRAL_S: Final = 40.0


class InHand(NamedTuple):
    """What a worker holds: the chunks whose tasks have not ended."""

    chunks: int
    images: int
    """Images that are not done yet."""
    waiting: int
    """Images that no loader has begun; part of `images`."""


def chunk_images_at(position: int) -> int:
    """Length of the chunk that begins at this position of a job, if no setting fixes it."""
    images = FIRST_CHUNK_IMAGES
    while images < LONGEST_CHUNK_IMAGES and position >= CHUNKS_BEFORE_LONGER * images:
        images *= 2
    return images


def count_chunks(images: int, chunk_images: int | None) -> int:
    """The number of chunks of a job. `chunk_images` is the setting; None: chunks grow."""
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
    """The number of images of one queue that may wait in Redis.

    It is `window_s` of what the devices could do. If they wait for the network, it is `window_s`
    of what reaches SQL, because a later job waits for the whole window.

    Args:
        workers: live workers of this queue. Without any, the window is that of one worker.
        chunk_images: images of a whole chunk; if chunks grow, of a job's first chunks.
        window_s: the setting.
        device_images_s: rate of all workers while their devices were busy; 0: not known yet.
        done_images_s: rate of all running jobs; None or 0: not known yet.
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
    """The number of chunks that a worker holds at once: `in_flight_s` of what its device does.

    Images count, not chunks: a chunk with two images left is the work of two, although its task
    continues until its patience ends. The worker also takes no more images than its loaders can
    begin, because more would only wait if the network is slower than the device. With a slow device
    it holds two short chunks, or one long chunk until little of it is left, because a later job
    waits for them.

    Args:
        in_hand: what the worker holds now.
        in_flight_s: the setting.
        images_per_s: the device's rate while it was busy; 0: not known yet.
        images_per_chunk: average of the messages that arrive.
        free_slots: images that the loaders could begin at once.
        batch_images: size of the largest batch.
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
    """Images of one host in flight at once: at most half of the slots, so that others have room."""
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
