"""A small network of the same blocks, for tests in which size does not matter: 9 convolutions."""

from __future__ import annotations

from resnext.picture.preprocess import Preprocessing
from resnext.spec.model import ModelSpec

SMALL = ModelSpec(
    name="small",
    depths=(1, 1),
    cardinality=4,
    width_per_group=4,
    stage_channels=(16, 32),
    stem="cifar",
    stem_channels=8,
    preprocessing=Preprocessing(16, 16, "bilinear", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
    categories=tuple(str(n) for n in range(10)),
    weights={},
)
