"""Loader processes that meet hostile pictures, or die: what it costs, and what it does not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from contract.error_codes import Failure
from contract.settings import Settings
from resnext.spec import find_spec
from worker.loaders import Loaded, LoaderPool, LoadFailed

WITHIN_S = 60.0
GOOD = Path(__file__).parents[2] / "demo/pictures/chelsea.jpg"


class Pool:
    """A pool, the names of the images that it loads, and what comes of them."""

    def __init__(self, settings: Settings) -> None:
        self.inner = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
        self._answers: SimpleQueue[tuple[str, Failure | None]] = SimpleQueue()

    def load(self, *paths: Path) -> None:
        for path in paths:
            self.inner.load(path.as_uri(), self._note(path.name))

    def _note(self, name: str) -> Callable[[Loaded | LoadFailed], None]:
        def done(load: Loaded | LoadFailed) -> None:
            if isinstance(load, LoadFailed):
                self._answers.put((name, load.failure))
            else:
                load.release()
                self._answers.put((name, None))

        return done

    def answers(self, number: int) -> list[tuple[str, Failure | None]]:
        """The next ones; None stands for pixels."""
        try:
            return [self._answers.get(timeout=WITHIN_S) for _ in range(number)]
        except Empty:
            raise AssertionError("an image has no answer") from None


MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    pools: list[Pool] = []

    def make(**settings: object) -> Pool:
        values = {"loaders": 1, "fetches_per_loader": 2, "file_roots": (tmp_path, GOOD.parent)}
        pools.append(Pool(Settings(**values | settings)))
        pools[-1].inner.start()
        return pools[-1]

    yield make
    for pool in pools:
        pool.inner.close()


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def make_png(path: Path, width: int, height: int) -> Path:
    """A picture whose header says so, with next to nothing behind it."""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _png_chunk(b"IDAT", zlib.compress(bytes(10)))
        + _png_chunk(b"IEND", b"")
    )
    return path


def test_a_header_of_any_width_costs_its_image_and_no_thread(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    wide = make_png(tmp_path / "wide.png", 2**32 - 1, 1)
    pool.load(*[wide] * 4)  # more than there are threads
    codes = [(name, failure.code) for name, failure in pool.answers(4) if failure]
    assert codes == [("wide.png", "too_many_pixels")] * 4
    pool.load(GOOD)
    assert pool.answers(1) == [(GOOD.name, None)]
