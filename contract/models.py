"""What a producer, which has no torch, knows of models: the weights that each is published with.

`resnext.spec.catalogue` knows all the rest; a test holds the two together.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

_PUBLISHED: Final = {
    "resnext101_32x4d": "nvidia",
    "resnext50_32x4d": "torchvision",
    "resnext101_32x8d": "torchvision",
    "resnext101_64x4d": "torchvision",
    "resnext101_32x4d.gluon_in1k": "timm",
    "resnext101_32x4d.fb_ssl_yfcc100m_ft_in1k": "timm",
    "resnext101_32x4d.fb_swsl_ig1b_ft_in1k": "timm",
    "resnext29_cifar10": "bundled",
    "resnext_tiny_imagenet": "bundled",
}
_SPEC_SUFFIX: Final = ".json"
_OWN: Final = "own"
_WEIGHTS_SUFFIXES: Final = (".safetensors", ".tar", ".pth", ".pt", ".bin")


def default_weights(model: str) -> str:
    """The name of a model's weights where nobody has said any."""
    return _OWN if model.endswith(_SPEC_SUFFIX) else _PUBLISHED.get(model, "nvidia")


def short_model(model: str) -> str:
    """A name as it is; of a spec's path the file's name, since machines keep it elsewhere."""
    return PurePath(model).name.removesuffix(_SPEC_SUFFIX)


def title_of(model: str, weights: str) -> str:
    """What results show of weights by name or path: `resnext101_32x4d/nvidia`."""
    name = PurePath(weights).name
    while name.endswith(_WEIGHTS_SUFFIXES):
        name = name.rpartition(".")[0]
    return f"{short_model(model)}/{name}"
