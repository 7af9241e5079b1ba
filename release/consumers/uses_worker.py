"""A program that uses the model. It runs in a clean environment; `mypy --strict` checks it."""

from __future__ import annotations

import sys
from pathlib import Path

from resnext import Answer, Classifier, load_classifier
from resnext.batch import Classify


def label_of(answer: Answer) -> str | None:
    return answer.top5[0].label if answer.top5 else None


def main(picture: Path) -> None:
    classifier: Classifier = load_classifier("resnext_tiny_imagenet", device="cpu")
    answers: list[Answer] = classifier.predict([picture, picture.read_bytes(), b"no picture"])
    labels: list[str | None] = [label_of(answer) for answer in answers]
    step = Classify("image", model="resnext_tiny_imagenet", device="cpu", keep=())
    columns = step({"image": [picture.read_bytes()]})
    label, same, none = labels
    assert label in classifier.spec.categories, labels
    assert (same, none) == (label, None), labels
    assert columns["label_1"] == [label], columns


if __name__ == "__main__":
    main(Path(sys.argv[1]))
