"""Which models are known by name, and everything about each that belongs together.

The worker asks `find_spec` for the model that is configured; the classifier builds the
network from it, and loaders take its preprocessing. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Final

from resnext.errors import UnknownModelError
from resnext.preprocess import Preprocessing

RANDOM: Final = "random"
"""The name of weights that every model has: drawn, not trained."""

# Of ImageNet's training images, as NVIDIA's and torchvision's own transforms have them.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that is published."""

    address: str
    size_bytes: int | None = None
    """None where the publisher does not say."""
    sha256: str | None = None
    """In hex, or its first digits where the publisher gives no more."""

    @property
    def file_name(self) -> str:
        return self.address.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A ResNeXt: bottleneck blocks with the stride on the grouped 3x3 convolution."""

    name: str
    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    cardinality: int
    """Groups of the 3x3 convolutions."""
    width_per_group: int
    """Of the first stage, in channels; doubled by each further one."""
    preprocessing: Preprocessing
    categories: tuple[str, ...]
    """The label of each class id."""
    weights: Mapping[str, WeightsFile]
    """By name; the first is the default."""

    @property
    def weights_names(self) -> tuple[str, ...]:
        """Every name that these weights go by, `random` included."""
        return (*self.weights, RANDOM)


def find_spec(model: str) -> ModelSpec:
    """
    Raises:
        UnknownModelError: no model has this name.
    """
    specs = _specs()
    if model in specs:
        return specs[model]
    nearest = get_close_matches(model, specs, n=1, cutoff=0.0)[0]
    raise UnknownModelError(
        f"There is no model {model!r}; known are {', '.join(specs)}. Did you mean {nearest}?"
    )


@cache
def _specs() -> dict[str, ModelSpec]:
    return {
        spec.name: spec
        for spec in (
            _imagenet(
                "resnext101_32x4d",
                depths=(3, 4, 23, 3),
                cardinality=32,
                width_per_group=4,
                resize=256,
                weights={"nvidia": WeightsFile(_NVIDIA)},
            ),
            _imagenet(
                "resnext50_32x4d",
                depths=(3, 4, 6, 3),
                cardinality=32,
                width_per_group=4,
                resize=232,
                weights={"torchvision": _torchvision("resnext50_32x4d", "1a0047aa")},
            ),
            _imagenet(
                "resnext101_32x8d",
                depths=(3, 4, 23, 3),
                cardinality=32,
                width_per_group=8,
                resize=232,
                weights={"torchvision": _torchvision("resnext101_32x8d", "110c445d")},
            ),
            _imagenet(
                "resnext101_64x4d",
                depths=(3, 4, 23, 3),
                cardinality=64,
                width_per_group=4,
                resize=232,
                weights={"torchvision": _torchvision("resnext101_64x4d", "173b62eb")},
            ),
        )
    }


# Published without size and hash; the server's own length is what a download is held to.
_NVIDIA: Final = (
    "https://api.ngc.nvidia.com/v2/models/nvidia/resnext101_32x4d_pyt_amp/versions/20.06.0/"
    "files/nvidia_resnext101-32x4d_200821.pth.tar"
)


def _torchvision(name: str, sha256: str) -> WeightsFile:
    """The newest weights of a model; their names hold the hash's first digits."""
    address = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return WeightsFile(address, sha256=sha256)


def _imagenet(  # noqa: PLR0913  (what differs between the models of one data set)
    name: str,
    *,
    depths: tuple[int, int, int, int],
    cardinality: int,
    width_per_group: int,
    resize: int,
    weights: Mapping[str, WeightsFile],
) -> ModelSpec:
    return ModelSpec(
        name=name,
        depths=depths,
        cardinality=cardinality,
        width_per_group=width_per_group,
        preprocessing=Preprocessing(resize, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        categories=_imagenet_categories(),
        weights=weights,
    )


@cache
def _imagenet_categories() -> tuple[str, ...]:
    """The 1000 labels in the order of their ids, as torchvision's metadata gives them."""
    text = files("resnext").joinpath("imagenet1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
