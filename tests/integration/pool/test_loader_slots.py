"""The slots of a real loader, and loaders that lie about them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.servers.sites import LOOPBACK, serving
from tests.wait import WITHIN_S, until
from worker.pool.pool import Load, Loaded, LoaderPool, release
from worker.pool.slots import Slots

COLOURS = range(0, 250, 50)
# False first answers of a loader that was taken over.
LIES = {
    "slots without a request": "pack_packets([pack_answer(Answer(n, None, Provenance())) "
    "for n in (2**32 - 1, 1)])",
    "an answer given twice": "pack_packets([pack_answer(Answer(slot, None, Provenance()))] * 2)",
    "a frame that does not exist": "pack_packets([pack_answer(Answer(slot, None, Provenance(), "
    "frame=2))])",
    "not a packet": "[b'nonsense']",
    "not a record": "pack_packets([b'nonsense'])",
}
LIAR = """
import socket, sys, time
from worker.chunk.outcome import Provenance
from worker.pool.wire import *
connection = socket.socket(fileno=int(sys.argv[1]))
connection.recv(MAX_PACKET_BYTES)
connection.send(READY)
slot, _, _ = unpack_request(unpack_packet(connection.recv(MAX_PACKET_BYTES))[0])
for packet in {lie}:
    connection.send(packet)
time.sleep(3600)
"""


def test_no_loader_can_shrink_its_slots() -> None:
    """Otherwise the worker's next access to them would end it."""
    descriptor = Slots.make(count=2, crop=32)
    for size in (0, 2**20):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    os.close(descriptor)


def test_the_lowest_free_frame_is_used_first() -> None:
    """The other frames are never touched, so they take no memory."""
    descriptor = Slots.make(count=5000, crop=32)  # more than the bytes of a page
    worker, loader = (Slots(descriptor, count=5000, crop=32) for _ in range(2))
    assert [loader.take_frame() for _ in range(3)] == [0, 1, 2]
    loader.pixels(1)[:] = 7
    assert (worker.pixels(1) == 7).all()
    worker.free_frame(1)
    assert [loader.take_frame() for _ in range(2)] == [1, 3]
    rest = [loader.take_frame() for _ in range(4, 5000)]
    assert rest == list(range(4, 5000))
    with pytest.raises(RuntimeError, match="all 5000 frames are taken"):
        loader.take_frame()
    loader.pixels(4999)[:] = 9
    assert loader.noted() is None
    assert (worker.pixels(4999) == 9).all()
    os.close(descriptor)


def test_an_image_in_flight_takes_no_memory_for_pixels(tmp_path: Path) -> None:
    """Twenty images wait for their host, and the next image still uses the first frame."""
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    picture = (tmp_path / "picture.png").as_uri()
    loads: SimpleQueue[Load] = SimpleQueue()
    settings = Settings(
        loaders=1, fetches_per_loader=64, file_roots=(tmp_path,), fetch_allow=(LOOPBACK,)
    )
    pool = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
    with serving("127.0.0.2") as slow:
        pool.start()
        try:
            begins = [begin_of(pool, picture, loads)]
            slow.open.clear()
            for uri in slow.uris(20):
                pool.load(uri, loads.put)
            until(lambda: slow.now == 20)
            begins += [begin_of(pool, picture, loads) for _ in range(3)]
            assert len(set(begins)) == 1
        finally:
            slow.open.set()
            pool.close()


def begin_of(pool: LoaderPool, uri: str, loads: SimpleQueue[Load]) -> int:
    """Load an image, release it, and return the address of its pixels."""
    pool.load(uri, loads.put)
    load = loads.get(timeout=WITHIN_S)
    assert isinstance(load, Loaded), load
    begin: int = load.pixels.ctypes.data
    load.release()
    return begin


class Pool:
    """A pool of one loader with two slots, and pictures of a single colour."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(loaders=1, fetches_per_loader=2, file_roots=(folder,))
        self.inner = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
        self.answers: SimpleQueue[tuple[int, Load]] = SimpleQueue()
        self._folder = folder

    def load(self, *colours: int) -> None:
        images = [(colour, self._picture(colour).as_uri()) for colour in colours]
        assert self.inner.load_all(images, self._take_in, lambda _: None) == []

    def next(self) -> tuple[int, Load]:
        return self.answers.get(timeout=WITHIN_S)

    def _take_in(self, loads: list[tuple[int, Load]]) -> None:
        for load in loads:
            self.answers.put(load)

    def _picture(self, colour: int) -> Path:
        path = self._folder / f"{colour}.png"
        Image.new("RGB", (256, 256), (colour,) * 3).save(path)
        return path


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    pool.inner.close()


def colours(load: Load) -> set[int]:
    assert isinstance(load, Loaded), load
    return set(np.unique(load.pixels).tolist())


def test_a_slot_is_not_reused_before_its_pixels_were_read(pool: Pool) -> None:
    pool.inner.start()
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(pool.load, *COLOURS)
        left = len(COLOURS)
        while left:
            held = [pool.next() for _ in range(min(2, left))]
            assert pool.answers.empty(), "at most as many images as slots"
            for colour, load in held:
                assert colours(load) == {colour}
            release([load for _, load in held if isinstance(load, Loaded)])
            left -= len(held)
        loading.result()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_loader_that_sends_a_false_answer_is_replaced(
    pool: Pool, monkeypatch, caplog, lie: str
) -> None:
    """This costs no image. Valid answers that it sent before still count."""
    start, liars = subprocess.Popen, iter([LIAR.format(lie=lie)])

    def start_liar_first(command: list[str], **options: Any) -> Any:
        program = next(liars, None)
        if program is not None:
            command = [sys.executable, "-c", program, *command[-2:]]
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", start_liar_first)
    pool.inner.start()
    pool.load(100, 200)
    assert sorted(colour for colour, _ in (pool.next(), pool.next())) == [100, 200]
    assert caplog.text.count("It will be replaced") == 1
