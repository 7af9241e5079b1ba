"""What a producer, which has no torch, knows about models: the default weights of each.

`resnext.spec.catalogue` knows everything else. A test checks that the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Final

from contract.errors import UsageError

_PUBLISHED: Final = {
    "resnext101_32x4d": "nvidia",
    "resnext50_32x4d": "torchvision",
    "resnext101_32x8d": "torchvision",
    "resnext101_64x4d": "torchvision",
    "resnext101_32x4d.gluon_in1k": "timm",
    "resnext101_32x4d.fb_ssl_yfcc100m_ft_in1k": "timm",
    "resnext101_32x4d.fb_swsl_ig1b_ft_in1k": "timm",
    "resnext_tiny_imagenet": "bundled",
}
MODELS: Final = tuple(_PUBLISHED)
_SPEC_SUFFIX: Final = ".json"
_OWN: Final = "own"
RANDOM: Final = "random"
"""The name of the random, untrained weights that every model has."""
_WEIGHTS_SUFFIXES: Final = (".safetensors", ".tar", ".pth", ".pt", ".bin")


def default_weights(model: str) -> str:
    """The name of a model's weights if no weights are set."""
    return _OWN if model.endswith(_SPEC_SUFFIX) else _PUBLISHED.get(model, "nvidia")


def check_names(model: str, weights: str) -> None:
    """Checks names only: a path can only be checked on a worker.

    Raises:
        UsageError: no model has this name, or the model has no weights with this name.
    """
    if model not in MODELS and not model.endswith(_SPEC_SUFFIX):
        raise UsageError(
            f"There is no model {model!r}.{_nearest(model, MODELS)} Choose {', '.join(MODELS)}, "
            f"or give the path of a JSON file that describes your own model."
        )
    names = (default_weights(model), RANDOM)
    if weights not in names and not _is_path(weights):
        raise UsageError(
            f"The model {short_model(model)} has no weights {weights!r}.{_nearest(weights, names)} "
            f"It has {' and '.join(names)}; or give the path of a weights file."
        )


def _is_path(weights: str) -> bool:
    return "/" in weights or weights.endswith(_WEIGHTS_SUFFIXES)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def short_model(model: str) -> str:
    """A name unchanged; for a spec's path the file's name, because its folder may differ between
    machines.
    """
    return PurePath(model).name.removesuffix(_SPEC_SUFFIX)


def title_of(model: str, weights: str) -> str:
    """The text in results for a model and its weights: `resnext101_32x4d/nvidia`."""
    name = PurePath(weights).name
    while name.endswith(_WEIGHTS_SUFFIXES):
        name = name.rpartition(".")[0]
    return f"{short_model(model)}/{name}"
