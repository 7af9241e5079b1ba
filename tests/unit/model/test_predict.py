"""Use from Python in three lines: one answer per picture, in whatever form it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnext import load_classifier
from resnext.classifier import Answer, Classifier, Picture
from resnext.spec.catalogue import BUNDLED, find_spec
from tests.pictures.demo import PICTURES

CHELSEA = PICTURES / "chelsea.jpg"
NAMES = ("chelsea.jpg", "coffee.jpg", "koala.jpg", "red-panda.png", "arch.jpg")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(BUNDLED, "random", precision="fp32", device="cpu", batch_images=2)


def ids(answer: Answer) -> list[int]:
    return [guess.class_id for guess in answer.top5]


def test_the_three_lines_print_a_label() -> None:
    lines = f"""
from resnext import load_classifier
classifier = load_classifier({BUNDLED!r}, "random")
print(classifier.predict([{str(CHELSEA)!r}])[0].top5[0].label)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in find_spec(BUNDLED).categories


@pytest.mark.parametrize(
    "as_what",
    [Path.read_bytes, str, Image.open, os.path.relpath, lambda path: Image.open(path).convert()],
)
def test_a_picture_has_the_same_answer_in_whatever_form_it_is_given(classifier, as_what) -> None:
    expected, given = classifier.predict([CHELSEA, as_what(CHELSEA)])
    assert len(expected.top5) == 5
    assert given == expected


@pytest.mark.parametrize("as_what", [Path.read_bytes, str, Image.open])
def test_a_picture_is_turned_by_its_exif_only_if_asked(classifier, tmp_path, as_what) -> None:
    upright = Image.open(CHELSEA).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = tmp_path / "stored.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, exif=exif)
    turning = load_classifier(
        BUNDLED, "random", precision="fp32", device="cpu", batch_images=2, orientation="exif"
    )
    expected = turning.predict([upright])
    assert turning.predict([as_what(stored)]) == expected
    assert classifier.predict([as_what(stored)]) != expected


def test_there_is_one_answer_per_picture_in_the_same_order(classifier) -> None:
    """The pictures fill more than two batches, and get the same answers alone."""
    paths = [PICTURES / name for name in NAMES]
    alone = [ids(classifier.predict([path])[0]) for path in paths]
    together = classifier.predict(paths)
    assert [ids(answer) for answer in together] == alone
    assert len({tuple(each) for each in alone}) > 1
    for answer in together:
        scores = [guess.score for guess in answer.top5]
        assert scores == sorted(scores, reverse=True)
        assert [guess.label for guess in answer.top5] == [
            classifier.spec.categories[class_id] for class_id in ids(answer)
        ]


def test_no_pictures_have_no_answers(classifier) -> None:
    assert classifier.predict([]) == []


def truncated() -> Image.Image:
    """A picture of which Pillow has read only the header."""
    return Image.open(BytesIO(CHELSEA.read_bytes()[:5000]))


def closed() -> Image.Image:
    image = Image.open(CHELSEA)
    image.close()
    return image


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b"words", "not_an_image: no image format begins like this"),
        (b"%PDF-1.7", "unsupported_format: a PDF document; supported are JPEG, PNG, "),
        (CHELSEA.read_bytes()[:5000], "truncated: image file is truncated"),
        (truncated(), "truncated: image file is truncated"),
        (closed(), "decode_error: "),
        (PICTURES / "gone.jpg", "unreadable: No such file or directory"),
        (PICTURES, "unreadable: Is a directory"),
        ("no\0file.jpg", "unreadable: embedded null byte"),
    ],
)
def test_a_bad_picture_gets_its_reason_and_harms_no_other(classifier, bad: Picture, error) -> None:
    (expected,) = classifier.predict([CHELSEA])
    before, found, after = classifier.predict([CHELSEA, bad, CHELSEA])
    assert (before, after) == (expected, expected)
    assert found.top5 == ()
    assert str(found.error).startswith(error)


def test_a_batch_of_only_bad_pictures_works(classifier) -> None:
    codes = [str(answer.error).partition(":")[0] for answer in classifier.predict([b"", b"x", b""])]
    assert codes == ["not_an_image"] * 3


@pytest.mark.parametrize("single", [str(CHELSEA), CHELSEA, b"bytes", Image.new("RGB", (9, 9))])
def test_one_picture_instead_of_a_list_is_refused_with_what_to_write(classifier, single) -> None:
    with pytest.raises(TypeError, match=r"write \[picture\]"):
        classifier.predict(single)


def test_pictures_are_read_only_as_fast_as_they_are_answered(classifier) -> None:
    """A million pictures need no more memory than one batch."""
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(CHELSEA)
            yield CHELSEA

    answers = classifier.predict_each(endless())
    for answered in range(1, 6):
        assert next(answers).error is None
        assert len(asked) <= answered + 1


class Scores(torch.nn.Module):
    """A network whose score for its second picture is not finite."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scores = torch.arange(10.0).repeat(len(pixels), 1)
        scores[1:2, 3] = float("nan")
        return scores


def scoring(classifier: Classifier) -> Classifier:
    return Classifier(
        classifier.spec,
        Scores(),  # type: ignore[arg-type]
        weights="random",
        weights_sha256="0" * 64,
        licence="none",
        device=torch.device("cpu"),
        precision="fp32",
        batch_images=3,
    )


def test_scores_that_are_not_finite_are_an_error_of_that_picture_only(classifier) -> None:
    first, second, third = scoring(classifier).predict([CHELSEA] * 3)
    assert ids(first) == ids(third) == [9, 8, 7, 6, 5]
    assert second == Answer(error="not_finite: the network's scores are not finite numbers")


def test_if_compiling_fails_it_says_so_and_answers_uncompiled(
    classifier, monkeypatch, caplog
) -> None:
    """Without `warm_up`, since the three lines do not call it."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr("resnext.classifier.compile_module", lambda *_: fail)
    compiled = load_classifier(
        BUNDLED, "random", precision="fp32", device="cpu", engine="compiled", batch_images=2
    )
    (answer,) = compiled.predict([CHELSEA])
    assert ids(answer) == ids(classifier.predict([CHELSEA])[0])
    assert compiled.engine == "eager"
    assert "runs uncompiled: Failed to find C compiler." in caplog.text
