"""The limits on work: the lengths of chunks, the window, and the places and lines of hosts.

`test_in_flight.py` covers the prefetch.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.flow import (
    LONGEST_CHUNK_IMAGES,
    chunk_images_at,
    count_chunks,
    host_places,
    line_images,
    parked_images,
    window_images,
)
from contract.settings import MAX_CHUNK_IMAGES, Settings


def window(
    workers: int = 1, *, device: float = 0.0, done: float | None = None, window_s: float = 1.5
) -> int:
    return window_images(
        workers=workers,
        chunk_images=64,
        window_s=window_s,
        device_images_s=device,
        done_images_s=done,
    )


@pytest.mark.parametrize(
    ("position", "images"),
    [
        pytest.param(0, 64, id="the first"),
        pytest.param(8_191, 64, id="the last short one"),
        pytest.param(8_192, 128, id="the first longer one"),
        pytest.param(16_384, 256, id="and longer"),
        pytest.param(10**9, 256, id="the longest"),
    ],
)
def test_chunks_grow_along_a_job(position, images) -> None:
    assert chunk_images_at(position) == images


def test_the_longest_chunk_fits_into_a_message() -> None:
    assert LONGEST_CHUNK_IMAGES <= MAX_CHUNK_IMAGES


@pytest.mark.parametrize(
    ("workers", "images"),
    [
        pytest.param(0, 512, id="for a worker that may start"),
        pytest.param(1, 512, id="eight chunks"),
        pytest.param(4, 2048, id="eight chunks for each"),
    ],
)
def test_until_a_rate_is_known_eight_chunks_wait_for_each_worker(workers, images) -> None:
    assert window(workers) == images
    assert window(workers, done=100.0) == images, "a rate of workers that have left"


@pytest.mark.parametrize(
    ("workers", "device", "images"),
    [
        pytest.param(1, 3000.0, 4500, id="a GPU"),
        pytest.param(2, 3000.0, 4500, id="the rate is that of all"),
        pytest.param(1, 6.0, 64, id="a CPU: one whole chunk"),
        pytest.param(2, 6.0, 128, id="one whole chunk for each"),
        pytest.param(1, 100.5, 151, id="rounded up"),
    ],
)
def test_the_window_is_seconds_of_the_devices_rate(workers, device, images) -> None:
    assert window(workers, device=device) == images


@pytest.mark.parametrize(
    ("done", "images"),
    [
        pytest.param(None, 4500, id="not known yet"),
        pytest.param(0.0, 4500, id="they have just begun"),
        pytest.param(400.0, 600, id="the network is slower than the device"),
        pytest.param(10.0, 512, id="at least eight chunks: otherwise no rate could rise"),
        pytest.param(9000.0, 4500, id="at most what the devices do"),
    ],
)
def test_with_a_slow_network_the_window_is_seconds_of_what_reaches_sql(done, images) -> None:
    assert window(device=3000.0, done=done) == images


@pytest.mark.parametrize(
    ("slots", "fetches_per_host", "places"),
    [
        pytest.param(4096, 32, 32, id="the setting"),
        pytest.param(16, 32, 8, id="half of the slots"),
        pytest.param(17, 32, 8, id="rounded down: the larger half is the others'"),
        pytest.param(1, 32, 1, id="at least one"),
    ],
)
def test_one_host_has_at_most_half_of_the_slots(slots, fetches_per_host, places) -> None:
    assert host_places(slots=slots, fetches_per_host=fetches_per_host) == places


@pytest.mark.parametrize(
    ("images_per_s", "images"),
    [
        pytest.param(None, 128, id="no rate: four for each place"),
        pytest.param(100.0, 128, id="a rate that allows more in 30 s"),
        pytest.param(2.0, 60, id="what the rate allows in 30 s"),
        pytest.param(0.001, 1, id="at least one"),
    ],
)
def test_a_hosts_line_holds_four_images_a_place_or_half_a_minute_of_its_rate(
    images_per_s, images
) -> None:
    assert line_images(32, images_per_s=images_per_s) == images


def test_four_images_are_parked_for_each_slot() -> None:
    assert parked_images(slots=4096) == 16_384


@pytest.mark.parametrize(
    ("field", "default", "words"),
    [
        ("window_s", 1.5, "| 1.5 s of what the devices do;"),
        ("in_flight_s", 2.0, "| 2 s of what its device does;"),
        ("chunks_in_flight", 512, "512 chunks at most |"),
        ("fetches_per_loader", 1024, "| 1024 for each loader |"),
        ("fetches_per_host", 32, "| 32, and at most half of the slots |"),
        ("chunk_patience_s", 5.0, "| seconds | 5 |"),
    ],
)
def test_the_page_about_flow_has_the_default_settings(field, default, words) -> None:
    assert Settings.model_fields[field].default == default, "docs/flow.md has another default"
    assert words in (Path(__file__).parents[3] / "docs/flow.md").read_text()


@pytest.mark.parametrize("images", [0, 1, 64, 65, 8192, 8193, 16384, 32768, 40000, 100_001])
@pytest.mark.parametrize("setting", [None, 1, 64, 256])
def test_chunks_are_counted_as_a_submit_cuts_them(images: int, setting: int | None) -> None:
    position = chunks = 0
    while position < images:
        position += setting or chunk_images_at(position)
        chunks += 1
    assert count_chunks(images, setting) == chunks
