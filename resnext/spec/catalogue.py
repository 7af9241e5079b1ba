"""The models that are known by name. `find_spec` also reads the user's own. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from resnext.errors import UnknownModelError
from resnext.picture.preprocess import Preprocessing
from resnext.spec.model import LocalWeights, ModelSpec, PublishedWeights
from resnext.spec.own_spec import read_spec

# Mean and deviation of ImageNet's training images, as in NVIDIA's and torchvision's transforms.
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)

# Published without size and hash. A download is only checked against the server's length.
_NVIDIA: Final = (
    "https://api.ngc.nvidia.com/v2/models/nvidia/resnext101_32x4d_pyt_amp/versions/20.06.0/"
    "files/nvidia_resnext101-32x4d_200821.pth.tar"
)
_TORCHVISION: Final = "https://download.pytorch.org/models"
_GLUON: Final = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1"
_FACEBOOK: Final = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files"

_DEPTHS_101: Final = (3, 4, 23, 3)
BUNDLED: Final = "resnext_tiny_imagenet"


def find_spec(model: str) -> ModelSpec:
    """Returns the spec for a name, or from the JSON file at a path (see `own_spec`).

    Raises:
        UnknownModelError: no model has this name, and there is no such file.
        BadSpec: the file does not describe a model.
    """
    specs = known_specs()
    if model in specs:
        return specs[model]
    if model.endswith(".json"):
        return read_spec(Path(model).expanduser().absolute(), specs)
    nearest = get_close_matches(model, specs, n=1, cutoff=0.0)[0]
    raise UnknownModelError(
        f"There is no model {model!r}. The known models are {', '.join(specs)}. For your own "
        f"model, give the path of a JSON file. Did you mean {nearest}?"
    )


@cache
def known_specs() -> Mapping[str, ModelSpec]:
    """The specs by name, the default first."""
    return {
        spec.name: spec
        for spec in (
            _imagenet(
                "resnext101_32x4d",
                weights={"nvidia": PublishedWeights(address=_NVIDIA, licence=_NVIDIA_LICENCE)},
            ),
            _of_torchvision("resnext50_32x4d", "1a0047aa", depths=(3, 4, 6, 3)),
            _of_torchvision("resnext101_32x8d", "110c445d", width_per_group=8),
            _of_torchvision("resnext101_64x4d", "173b62eb", cardinality=64),
            _of_timm(
                "gluon_in1k",
                address=f"{_GLUON}/gluon_resnext101_32x4d-b253c8c4.pth",
                licence="Apache-2.0",
                interpolation="bicubic",
            ),
            _of_timm(
                "fb_ssl_yfcc100m_ft_in1k",
                address=f"{_FACEBOOK}/semi_supervised_resnext101_32x4-dc43570a.pth",
                licence=_NON_COMMERCIAL,
                interpolation="bilinear",
            ),
            _of_timm(
                "fb_swsl_ig1b_ft_in1k",
                address=f"{_FACEBOOK}/semi_weakly_supervised_resnext101_32x4-3f87e46b.pth",
                licence=_NON_COMMERCIAL,
                interpolation="bilinear",
            ),
            _bundled(),
        )
    }


_NVIDIA_LICENCE: Final = "NVIDIA's own terms, in its NGC catalogue"
_NON_COMMERCIAL: Final = "CC-BY-NC-4.0: not for commercial use"


def _imagenet(
    name: str,
    *,
    weights: Mapping[str, PublishedWeights],
    resize: int = 256,
    interpolation: Any = "bilinear",  # noqa: ANN401  (a literal that Preprocessing checks)
    **shape: Any,  # noqa: ANN401  (fields of ModelSpec)
) -> ModelSpec:
    """A network for ImageNet's 1000 classes: a ResNeXt101-32x4d, changed by `shape`."""
    usual: dict[str, Any] = {"depths": _DEPTHS_101, "cardinality": 32, "width_per_group": 4}
    return ModelSpec(
        name=name,
        preprocessing=Preprocessing(resize, 224, interpolation, _IMAGENET_MEAN, _IMAGENET_STD),
        categories=_imagenet_categories(),
        weights=weights,
        **(usual | shape),
    )


def _of_torchvision(name: str, sha256: str, **shape: Any) -> ModelSpec:  # noqa: ANN401
    """A model with torchvision's newest weights. Their file names have the hash's first digits."""
    file = PublishedWeights(
        address=f"{_TORCHVISION}/{name}-{sha256}.pth", licence="BSD-3-Clause", sha256=sha256
    )
    return _imagenet(name, resize=232, weights={"torchvision": file}, **shape)


def _of_timm(variant: str, *, address: str, licence: str, interpolation: str) -> ModelSpec:
    """A ResNeXt101-32x4d under timm's name, with the preprocessing that timm gives. Its file's name
    has the hash's first digits.
    """
    sha256 = address.rpartition("-")[2].removesuffix(".pth")
    file = PublishedWeights(address=address, licence=licence, sha256=sha256)
    name = f"resnext101_32x4d.{variant}"
    return _imagenet(name, weights={"timm": file}, interpolation=interpolation)


@cache
def _imagenet_categories() -> tuple[str, ...]:
    """The 1000 labels in the order of their ids, as in torchvision's metadata."""
    text = files("resnext").joinpath("imagenet1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _bundled() -> ModelSpec:
    """The small model of this package: 200 ImageNet classes, trained by `resnext.bundled.train`.

    It is as large as 6 MB in fp16 permit. Eight groups train as fast on a CPU as four and have a
    quarter fewer parameters.
    """
    file = Path(str(files("resnext.bundled").joinpath(f"{BUNDLED}.safetensors")))
    return ModelSpec(
        name=BUNDLED,
        depths=(1, 3, 4, 2),
        cardinality=8,
        width_per_group=8,
        stage_channels=(64, 128, 256, 512),
        stem="tiny_imagenet",
        stem_channels=32,
        preprocessing=Preprocessing(64, 64, "bilinear", _IMAGENET_MEAN, _IMAGENET_STD),
        categories=tuple(label for _, label in _bundled_classes()),
        weights={
            "bundled": LocalWeights(
                path=file,
                licence="BSD-3-Clause",
                sha256="481449addf48a2e0ef283fa1ddd0f45cb4908fae5b6436644556ee115caa68da",
            )
        },
    )


def wordnet_ids() -> tuple[str, ...]:
    """The WordNet id of each class of `BUNDLED`: the folder of its training pictures."""
    return tuple(wordnet_id for wordnet_id, _ in _bundled_classes())


@cache
def _bundled_classes() -> tuple[tuple[str, str], ...]:
    """WordNet ids and ImageNet's labels, in the order of ImageNet's class ids."""
    text = files("resnext.bundled").joinpath("tiny_imagenet.txt").read_text(encoding="utf-8")
    lines = (line.split("\t") for line in text.splitlines())
    return tuple((wordnet_id, label) for wordnet_id, label in lines)
