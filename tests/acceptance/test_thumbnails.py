"""Thumbnails of pictures of every kind, made by the real commands and read over the API."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine

from contract.database.engine import make_engine, reading
from contract.settings import Settings
from producer.jobs.thumbnails import find_thumbnails
from tests.acceptance.installation import Installation
from tests.pictures.demo import PICTURES
from tests.pictures.hostile import make_png
from tests.servers.api import Api, serve
from tests.wait import until

SIDE = 128
SECRET = b"52 deg 31 min north"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    yield from serve(engine, Settings())


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """Pictures of every kind, then two files that never reach the network."""
    photograph = Image.open(PICTURES / "coffee.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()  # the description
    names = ("plain.jpg", "dot.png", "cmyk.jpg", "huge.png", "thin.png", "grey.png", "exif.jpg")
    paths = [tmp_path / name for name in (*names, "words.jpg", "too-large.png")]
    photograph.save(paths[0])
    Image.new("RGB", (1, 1), (200, 40, 40)).save(paths[1])
    photograph.convert("CMYK").save(paths[2])
    Image.new("L", (9000, 9000), 99).save(paths[3])
    Image.new("RGB", (20_000, 1), (9, 200, 9)).save(paths[4])
    Image.new("I;16", (40, 40), 30_000).save(paths[5])
    photograph.save(paths[6], exif=exif, comment=SECRET)
    paths[7].write_text("These are words.")
    make_png(paths[8], 60_000, 60_000)
    return paths


def test_each_classified_picture_has_a_thumbnail(
    installation: Installation, album: list[Path], engine: Engine, api: Api
) -> None:
    installation.start("dispatch")
    installation.start("worker")
    job = installation.submit(*(path.as_uri() for path in album))
    installation.wait(job)
    records = installation.results(job)
    classified = [one["position"] for one in records if one["status"] == "classified"]
    assert classified == list(range(7))

    def kept() -> list[int]:
        with reading(engine) as connection:
            return [one.position for one in find_thumbnails(connection, job)]

    until(lambda: kept() == classified, installation.tails)
    told = api.reader.get(f"/v1/jobs/{job}/thumbnails").json()
    assert told["next"] is None
    for one, record in zip(told["thumbnails"], records, strict=False):
        assert one == {name: record.get(name) for name in one}
    pictures = [_picture(api, job, position) for position in classified]
    assert {picture.size for picture in pictures} == {(SIDE, SIDE)}
    means = [np.asarray(picture).mean(axis=(0, 1)) for picture in pictures]
    assert np.abs(means[1] - (200, 40, 40)).max() < 8
    assert np.abs(means[3] - 99).max() < 4
    assert np.abs(means[0] - means[6]).max() < 8
    assert _get(api, job, 6).find(SECRET) == -1
    for position in (7, 8, 9):
        missing = api.reader.get(f"/v1/jobs/{job}/thumbnails/{position}")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_no_thumbnail_is_stored_when_they_are_off(
    installation: Installation, engine: Engine, tmp_path: Path
) -> None:
    """Checked after the worker has ended, when no thumbnail can still be waiting."""
    installation.environment |= {
        "RESNEXT_THUMBNAILS": "0",
        "RESNEXT_MODEL": "resnext_tiny_imagenet",
    }
    installation.environment["RESNEXT_WEIGHTS"] = "bundled"
    installation.start("dispatch")
    worker = installation.start("worker")
    job = installation.submit((PICTURES / "coffee.jpg").as_uri())
    installation.wait(job)
    worker.terminate()
    assert worker.wait(timeout=300) == os.EX_OK
    with reading(engine) as connection:
        assert find_thumbnails(connection, job) == []


def _get(api: Api, job: str, position: int) -> bytes:
    answer = api.reader.get(f"/v1/jobs/{job}/thumbnails/{position}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/jpeg"
    return answer.content


def _picture(api: Api, job: str, position: int) -> Image.Image:
    return Image.open(io.BytesIO(_get(api, job, position)))
