"""The spec of a model: its network, its preprocessing, its categories and its weights.

`catalogue` has the specs that are known by name, and `own_spec` reads a user's own. The classifier
builds the network from a spec, and loaders use its preprocessing. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from resnext.picture.preprocess import Preprocessing

Stem = Literal["imagenet", "tiny_imagenet", "cifar"]
RANDOM: Final = "random"
"""The name of weights that every model has: random, not trained."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file that is downloaded once to the cache."""

    address: str
    licence: str
    """The licence in its publisher's words, which users are shown."""
    size_bytes: int | None = None
    """None if the publisher does not give it."""
    sha256: str | None = None
    """In hex. It may be only the first digits, if the publisher gives no more."""

    @property
    def file_name(self) -> str:
        return self.address.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class LocalWeights:
    """A file on this machine: part of this package, or the user's own."""

    path: Path
    licence: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A ResNeXt: bottleneck blocks with the stride on the grouped 3x3 convolution."""

    name: str
    depths: tuple[int, ...]
    """The number of blocks in each stage."""
    cardinality: int
    """The number of groups in the 3x3 convolutions."""
    width_per_group: int
    """In channels, in the first stage. Each further stage doubles it."""
    stage_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    """The output channels of each stage."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7 with stride 2 and a max-pool; `tiny_imagenet`: 3x3 with stride 2;
    `cifar`: only 3x3.
    """
    stem_channels: int = 64
    preprocessing: Preprocessing
    categories: tuple[str, ...]
    """The label of each class id."""
    weights: Mapping[str, PublishedWeights | LocalWeights]
    """The weights by name. The first is the default."""

    @property
    def weights_names(self) -> tuple[str, ...]:
        """The names of all weights, including `random`."""
        return (*self.weights, RANDOM)
