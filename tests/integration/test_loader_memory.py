"""A picture that finds no memory in its loader: whether that is its own fault."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.settings import Settings
from resnext.catalogue import find_spec
from tests.integration.test_loader_faults import make_png
from worker.fetch import Fetched
from worker.loader import Loader, LoaderConfig, Stopwatch
from worker.slots import Slots

LEFT_BYTES = 8 * 2**20


@contextmanager
def little_memory() -> Iterator[None]:
    """So much is left of the address space as if bodies had taken the rest."""
    used_pages = int(Path("/proc/self/statm").read_text().split()[0])
    usual = resource.getrlimit(resource.RLIMIT_AS)
    limit = used_pages * resource.getpagesize() + LEFT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)


@pytest.mark.parametrize(
    ("side", "code"), [(6000, "timeout"), (8000, "too_many_pixels")], ids=["small", "large"]
)
def test_a_small_picture_that_finds_no_memory_is_tried_again(
    tmp_path: Path, side: int, code: str
) -> None:
    body = make_png(tmp_path / "a.png", side, side).read_bytes()
    preprocessing = find_spec("resnext29_cifar10").preprocessing
    config = LoaderConfig.of(Settings(fetches_per_loader=1), preprocessing)
    slots = Slots(Slots.make(count=1, crop=preprocessing.crop), count=1, crop=preprocessing.crop)
    with socket.socket() as unused:
        loader = Loader(unused, slots, config)
        with little_memory():
            done = loader._decode(0, Fetched(body), Stopwatch())
    assert done.failure is not None
    assert (done.failure.code, done.failure.retried) == (code, code == "timeout")
    assert done.provenance.width == side
