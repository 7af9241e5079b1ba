"""The small model of 200 ImageNet classes, trained by `resnext.bundled.train_tiny_imagenet`.

Loads no torch.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from resnext.picture.preprocess import Preprocessing
from resnext.spec.model import LocalWeights, ModelSpec

TINY_IMAGENET: Final = "resnext_tiny_imagenet"


def tiny_imagenet() -> ModelSpec:
    """The spec. Its weights lie in this package once they are trained."""
    file = Path(str(files("resnext.bundled").joinpath(f"{TINY_IMAGENET}.safetensors")))
    return ModelSpec(
        name=TINY_IMAGENET,
        depths=(1, 3, 4, 2),
        cardinality=8,
        width_per_group=8,
        stage_channels=(64, 128, 256, 512),
        stem="tiny_imagenet",
        stem_channels=32,
        preprocessing=Preprocessing(
            64, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        ),
        categories=tuple(label for _, label in _classes()),
        weights={"bundled": LocalWeights(path=file, licence="BSD-3-Clause")},
    )


def wordnet_ids() -> tuple[str, ...]:
    """The WordNet id of each class id; the pictures' folders are named by them."""
    return tuple(wordnet_id for wordnet_id, _ in _classes())


@cache
def _classes() -> tuple[tuple[str, str], ...]:
    """WordNet ids and labels, in the order of ImageNet's class ids."""
    text = files("resnext.bundled").joinpath("tiny_imagenet.txt").read_text(encoding="utf-8")
    return tuple(_two(line) for line in text.splitlines())


def _two(line: str) -> tuple[str, str]:
    wordnet_id, label = line.split("\t")
    return wordnet_id, label
