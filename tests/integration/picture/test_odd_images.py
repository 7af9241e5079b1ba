"""Some of the odd images go through a real loader. It survives, and reports each correctly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.integration.dispatching import WITHIN_S
from tests.pictures.demo import GOOD
from tests.pictures.odd_images import MAX_PIXELS, PIXELS, OddImage, odd_images
from worker.pool.pool import Loaded, LoaderPool, LoadFailed

# Every so many of the hundreds of images in the unit tests. All formats and kinds of damage occur.
EVERY = 29


def ending(pool: LoaderPool, path: Path) -> str:
    answers: SimpleQueue[Loaded | LoadFailed] = SimpleQueue()
    pool.load(path.as_uri(), answers.put)
    answer = answers.get(timeout=WITHIN_S)
    if isinstance(answer, LoadFailed):
        return answer.failure.code
    answer.release()
    return PIXELS


@pytest.fixture
def complaints(tmp_path: Path) -> Iterator[Path]:
    """The standard error of all processes that start meanwhile, as a file."""
    path, usual = tmp_path / "complaints", os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    yield path
    os.dup2(usual, 2)
    os.close(usual)


@pytest.fixture
def pool(tmp_path: Path, complaints: Path) -> Iterator[LoaderPool]:
    settings = Settings(
        loaders=1, fetches_per_loader=2, file_roots=(tmp_path,), max_pixels=MAX_PIXELS
    )
    pool = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
    pool.start()
    yield pool
    pool.close()


def some() -> list[OddImage]:
    """Every 29th image, and those for which libtiff complains in each row."""
    images = list(odd_images())
    return images[::EVERY] + [image for image in images if "group" in image.name]


def test_one_loader_survives_all_of_them_silently(
    pool: LoaderPool, tmp_path: Path, complaints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = pool.processes[0]
    images = some()
    assert len(images) > 90
    path = tmp_path / "image"
    wrong = {}
    for image in images:
        path.write_bytes(image.body)
        code = ending(pool, path)
        if code not in image.endings:
            wrong[image.name] = code
    assert wrong == {}
    assert pool.processes[0] is loader
    assert "loader died" not in caplog.text
    pool.close()
    assert complaints.read_text() == ""


def test_workers_can_be_set_to_accept_truncated_files(tmp_path: Path) -> None:
    whole = GOOD.read_bytes()
    path = tmp_path / "image.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    for truncated, expected in (("refuse", "truncated"), ("accept", PIXELS)):
        settings = Settings(
            loaders=1, fetches_per_loader=1, file_roots=(tmp_path,), truncated=truncated
        )
        pool = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
        pool.start()
        try:
            assert ending(pool, path) == expected
        finally:
            pool.close()
