"""`RESNEXT_ORIENTATION` in the queue, `classify` and `export`: pixels and records."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.database.engine import make_engine, reading
from contract.database.tables import results
from tests.acceptance.installation import Installation
from tests.pictures.demo import PICTURES

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SIZE = (90, 60)
MODEL = {"RESNEXT_MODEL": "resnext_tiny_imagenet", "RESNEXT_WEIGHTS": "bundled"}


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """A picture, the same picture stored on its side with that in its EXIF, and a text file."""
    upright = Image.open(PICTURES / "coffee.jpg").convert("RGB").resize(SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    paths = [tmp_path / name for name in ("upright.png", "stored.png", "words.png")]
    upright.save(paths[0])
    upright.transpose(Image.Transpose.ROTATE_90).save(paths[1], exif=exif)
    paths[2].write_text("These are words.")
    return paths


def check(found: list[dict[str, Any]], orientation: str) -> None:
    """Check the album's records for this orientation setting."""
    upright, stored, words = found
    assert upright["orientation"] == stored["orientation"] == orientation
    assert (upright["width"], upright["height"]) == SIZE
    turned = orientation == "exif"
    assert (stored["width"], stored["height"]) == (SIZE if turned else SIZE[::-1])
    assert (stored["top5"] == upright["top5"]) is turned
    assert words["error"]["code"] == "not_an_image"
    assert "orientation" not in words


@on_sqlite
def test_workers_follow_the_setting_and_store_it_with_the_row(
    installation: Installation, album: list[Path], database_url: str
) -> None:
    installation.environment |= MODEL
    installation.start("dispatch")
    jobs = {}
    for orientation in ("exif", "ignore"):
        installation.environment["RESNEXT_ORIENTATION"] = orientation
        worker = installation.start("worker")
        jobs[orientation] = installation.submit(*(path.as_uri() for path in album))
        installation.wait(jobs[orientation])
        worker.terminate()
        assert worker.wait(timeout=300) == 0
    for orientation, job in jobs.items():
        check(installation.results(job), orientation)
        table = csv.DictReader(io.StringIO(installation.run("results", job, "--format", "csv")))
        assert [row["orientation"] for row in table] == [orientation, orientation, ""]
    engine = make_engine(database_url)
    with reading(engine) as connection:
        rows = connection.execute(results.select().order_by("job_number", "position")).all()
    engine.dispose()
    assert [row.orientation for row in rows] == ["exif", "exif", None, "ignore", "ignore", None]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("orientation", ["exif", "ignore"])
def test_classify_follows_the_setting_and_reports_it(installation, album, orientation) -> None:
    installation.environment |= MODEL | {"RESNEXT_ORIENTATION": orientation}
    lines = installation.run("classify", "--json", *map(str, album)).splitlines()
    check([json.loads(line) for line in lines], orientation)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_export_describes_the_orientation(installation) -> None:
    installation.environment |= MODEL | {"RESNEXT_ORIENTATION": "exif"}
    installation.run("export", "--format", "torchscript", "--output", "models")
    config = installation.folder / "models" / MODEL["RESNEXT_MODEL"] / "config.pbtxt"
    assert "turned as the orientation in EXIF says" in config.read_text()
