"""How many chunks a worker holds at once."""

import pytest

from contract.flow import InHand
from worker.chunk.prefetch import InFlight

SLOTS = 8192


def in_flight(
    images_per_s: float,
    in_hand: tuple[int, int, int] = (0, 0, 0),
    *,
    images_per_chunk: float = 64.0,
    free_slots: int = SLOTS,
) -> InFlight:
    return InFlight(
        in_flight_s=2.0,
        most_chunks=512,
        batch_images=32,
        images_per_s=lambda: images_per_s,
        images_per_chunk=lambda: images_per_chunk,
        in_hand=lambda: InHand(*in_hand),
        free_slots=lambda: free_slots,
    )


@pytest.mark.parametrize(
    ("images_per_s", "chunks"),
    [
        pytest.param(0.0, 2, id="not known yet: one to classify, one to load"),
        pytest.param(6.0, 2, id="a CPU: only two chunks"),
        pytest.param(100.0, 4, id="two seconds of it, rounded up"),
        pytest.param(3000.0, 94, id="a GPU"),
        pytest.param(90_000.0, 129, id="no more than loaders have slots for, and two batches"),
    ],
)
def test_a_worker_holds_seconds_of_the_measured_rate(images_per_s: float, chunks: int) -> None:
    assert in_flight(images_per_s).wanted_chunks() == chunks


@pytest.mark.parametrize(
    ("images_per_chunk", "in_hand", "chunks"),
    [
        pytest.param(64.0, (1, 64, 0), 2, id="short ones: one to classify, one to load"),
        pytest.param(64.0, (2, 128, 0), 2, id="and no more"),
        pytest.param(256.0, (0, 0, 0), 1, id="the first long one"),
        pytest.param(256.0, (1, 256, 0), 1, id="a long one is as much as two short ones"),
        pytest.param(256.0, (1, 127, 0), 2, id="until little of it is left"),
    ],
)
def test_a_slow_device_holds_the_same_images_in_long_chunks_as_in_short_ones(
    images_per_chunk: float, in_hand: tuple[int, int, int], chunks: int
) -> None:
    """A later job has to wait for these images."""
    worker = in_flight(6.0, in_hand, images_per_chunk=images_per_chunk)
    assert worker.wanted_chunks() == chunks


def test_of_small_chunks_a_worker_holds_more() -> None:
    """A retry may leave one image of a chunk, but there must be enough images for a batch."""
    assert in_flight(0.0, images_per_chunk=1.0).wanted_chunks() == 64
    assert in_flight(0.0, images_per_chunk=16.0).wanted_chunks() == 4
    assert in_flight(3000.0, images_per_chunk=1.0).wanted_chunks() == 512, "as many as may be"


@pytest.mark.parametrize(
    ("in_hand", "chunks"),
    [
        pytest.param((94, 6000, 64), 94, id="all images are left: no more, no fewer"),
        pytest.param((94, 188, 0), 94 + 91, id="two images of each are left: little work"),
        pytest.param((300, 8000, 64), 300 - 31, id="too much: chunks that end are not replaced"),
        pytest.param((20, 1280, 64), 20 + 74, id="more is wanted"),
    ],
)
def test_only_the_work_that_is_left_counts(in_hand: tuple[int, int, int], chunks: int) -> None:
    assert in_flight(3000.0, in_hand).wanted_chunks() == chunks


def test_a_worker_whose_loaders_are_slower_than_its_device_holds_little_more() -> None:
    """More chunks would not finish sooner, and no later job could overtake them."""
    assert in_flight(3000.0, (16, 1024, 0), free_slots=0).wanted_chunks() == 16 + 1
    assert in_flight(3000.0, (20, 1280, 256), free_slots=0).wanted_chunks() == 20 - 3
