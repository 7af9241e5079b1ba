"""Everything about a model that belongs together: its network, what it sees, what it names.

`catalogue` has the specs that are known by name and `own_spec` reads a user's own; the
classifier builds the network from one, and loaders take its preprocessing. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from resnext.picture.preprocess import Preprocessing

Stem = Literal["imagenet", "tiny_imagenet", "cifar"]
RANDOM: Final = "random"
"""The name of weights that every model has: drawn, not trained."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file that is downloaded once, to the cache."""

    address: str
    licence: str
    """As its publisher names it; shown to whoever uses it."""
    size_bytes: int | None = None
    """None where the publisher does not say."""
    sha256: str | None = None
    """In hex, or its first digits where the publisher gives no more."""

    @property
    def file_name(self) -> str:
        return self.address.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class LocalWeights:
    """A file that is here: shipped with this package, or the user's own."""

    path: Path
    licence: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A ResNeXt: bottleneck blocks with the stride on the grouped 3x3 convolution."""

    name: str
    depths: tuple[int, ...]
    """Blocks of each stage."""
    cardinality: int
    """Groups of the 3x3 convolutions."""
    width_per_group: int
    """Of the first stage, in channels; doubled by each further one."""
    stage_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    """What comes out of each stage."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7 with stride 2 and a max-pool; `tiny_imagenet`: 3x3 with stride 2;
    `cifar`: 3x3 alone.
    """
    stem_channels: int = 64
    preprocessing: Preprocessing
    categories: tuple[str, ...]
    """The label of each class id."""
    weights: Mapping[str, PublishedWeights | LocalWeights]
    """By name; the first is the default."""

    @property
    def weights_names(self) -> tuple[str, ...]:
        """Every name that these weights go by, `random` included."""
        return (*self.weights, RANDOM)
