"""The bundled model answers real pictures through the whole queue as well as it does alone."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from resnext import load_classifier

# Pictures in folders by class: `<anything>/<class>/<name>.jpg`. They are no part of the project.
ARCHIVE = Path(
    os.environ.get("CIFAR10_TEST")
    or Path(__file__).parents[3] / "shared" / "data" / "cifar10-test-2000.tar.gz"
)
PER_CLASS = 30
MODEL = "resnext29_cifar10"


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """A few hundred, the same number of each class."""
    with tarfile.open(ARCHIVE) as archive:
        members = sorted((m for m in archive if m.isfile()), key=lambda m: m.name)
        by_class: dict[str, list[tarfile.TarInfo]] = {}
        for member in members:
            by_class.setdefault(Path(member.name).parent.name, []).append(member)
        chosen = [member for group in by_class.values() for member in group[:PER_CLASS]]
        archive.extractall(tmp_path / "web", chosen, filter="data")
    return [tmp_path / "web" / member.name for member in chosen]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.skipif(
    not ARCHIVE.exists(), reason=f"no test pictures: CIFAR10_TEST names none, and no {ARCHIVE.name}"
)
def test_the_accuracy_through_the_queue_is_that_of_the_classifier_alone(
    installation, pictures
) -> None:
    installation.environment |= {
        "RESNEXT_MODEL": MODEL,
        "RESNEXT_WEIGHTS": "bundled",
        "RESNEXT_CHUNK_IMAGES": "64",
        "RESNEXT_BATCH_IMAGES": "32",
    }
    installation.start("dispatch")
    installation.start("worker")
    job = installation.submit(*(picture.as_uri() for picture in pictures))
    status = installation.wait(job)
    assert (status["classified"], status["failed"]) == (10 * PER_CLASS, 0)

    found = [result["top5"][0]["label"] for result in installation.results(job)]

    alone = load_classifier(MODEL, precision="fp32", device="cpu").predict(pictures)
    assert found == [answer.top5[0].label for answer in alone]
    right = sum(
        label == picture.parent.name for label, picture in zip(found, pictures, strict=True)
    )
    assert right / len(pictures) > 0.87
