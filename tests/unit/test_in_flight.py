"""How many chunks a worker takes at a time."""

import pytest

from worker.in_flight import InFlight


def in_flight(images_per_s: float, images_per_chunk: float = 64.0) -> InFlight:
    return InFlight(
        in_flight_s=10.0,
        most_chunks=64,
        batch_images=32,
        images_per_s=lambda: images_per_s,
        images_per_chunk=lambda: images_per_chunk,
    )


@pytest.mark.parametrize(
    ("images_per_s", "chunks"),
    [
        pytest.param(0.0, 2, id="not known yet: one to classify, one to load"),
        pytest.param(6.0, 2, id="a CPU: not minutes of work"),
        pytest.param(100.0, 16, id="ten seconds of it, rounded up"),
        pytest.param(3000.0, 64, id="a GPU: as many as there may be"),
    ],
)
def test_seconds_of_the_measured_rate(images_per_s: float, chunks: int) -> None:
    assert in_flight(images_per_s).wanted_chunks() == chunks


def test_small_chunks_are_more_of_them() -> None:
    """What a retry leaves of a chunk may be one image; a batch is to be filled all the same."""
    assert in_flight(0.0, images_per_chunk=1.0).wanted_chunks() == 64
    assert in_flight(0.0, images_per_chunk=16.0).wanted_chunks() == 4
