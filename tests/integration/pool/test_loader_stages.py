"""A loader measures the stages that an image reaches, and no others."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.integration.dispatching import WITHIN_S
from tests.pictures.demo import GOOD
from worker.chunk.outcome import UNKNOWN
from worker.pool.pool import Loaded, LoaderPool, LoadFailed


def test_loaders_measure_the_stages_of_an_image(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(GOOD.read_bytes()[:100])
    settings = Settings(loaders=1, fetches_per_loader=2, file_roots=(tmp_path, GOOD.parent))
    answers: SimpleQueue[Loaded | LoadFailed] = SimpleQueue()
    pool = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
    pool.start()
    try:

        def load(path: Path) -> Any:
            pool.load(path.as_uri(), answers.put)
            return answers.get(timeout=WITHIN_S).measured

        for path in (GOOD, broken):
            fetch_s, decode_wait_s, decode_s = load(path)
            assert min(fetch_s, decode_s) > 0
            assert decode_wait_s >= 0
        fetch_s, *rest = load(tmp_path / "missing.jpg")
        assert fetch_s > 0
        assert rest == [UNKNOWN, UNKNOWN]
    finally:
        pool.close()
