"""Batches on a CPU: each core computes a part of them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from resnext.run.runner import LEAST_IMAGES, CpuStreams

STREAMS = 3


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(STREAMS)
    yield
    torch.set_num_threads(before)


class Forward:
    """Sums the bytes of each picture. Records the size and thread count of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.calls.append((len(pixels), torch.get_num_threads()))
        return pixels.float().sum(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (1, [(1, STREAMS)]),
        (STREAMS * LEAST_IMAGES - 1, [(STREAMS * LEAST_IMAGES - 1, STREAMS)]),
        (STREAMS * LEAST_IMAGES, [(LEAST_IMAGES, 1)] * STREAMS),
        (32, [(6, 1), (6, 1), (5, 1), (5, 1), (5, 1), (5, 1)]),
        (100, [(8, 1)] * 4 + [(7, 1)] * 8 + [(6, 1)] * 2),
    ],
)
def test_a_large_batch_is_split_among_the_cores_and_comes_back_in_order(
    images: int, parts: list[tuple[int, int]]
) -> None:
    forward = Forward()
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1).expand(images, 2, 2, 3)
    with torch.inference_mode():
        logits = CpuStreams(forward)(pixels)
    assert logits.squeeze(1).tolist() == [12 * n for n in range(images)]
    assert sorted(forward.calls, reverse=True) == parts


def test_other_code_still_has_all_the_threads() -> None:
    CpuStreams(Forward())
    assert torch.get_num_threads() == STREAMS
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == STREAMS


def test_an_error_in_one_stream_is_raised_for_the_batch() -> None:
    def forward(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        CpuStreams(forward)(torch.zeros(32, 2, 2, 3, dtype=torch.uint8))
