"""A user's own fine-tuned network: a spec in a JSON file, beside its weights.

    {
      "like": "resnext50_32x4d",
      "categories": ["robin", "wren", "tit"],
      "weights": "birds.safetensors"
    }

`like` takes the network and the preprocessing from a known model. Other keys override them, under
the names in `ModelSpec` and `Preprocessing`: depths, cardinality, width_per_group, stage_channels,
stem, stem_channels, resize, crop, interpolation, mean, std. `categories` is a list, or a text file
with one label per line. The paths of `weights` and of that file are relative to the JSON file's
folder. `sha256` and `licence` are optional. The model has the name of the file.

The checks do not use pydantic: `resnext` is a library that works without it, and a pydantic model
would need as many lines again for these messages (key, value, what is allowed).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from resnext.errors import BadSpec
from resnext.picture.preprocess import Preprocessing
from resnext.spec.model import LocalWeights, ModelSpec, Stem

OWN: Final = "own"
"""The name of the weights in a JSON file."""

Check = Callable[[Any], bool]


def read_spec(path: Path, known: Mapping[str, ModelSpec]) -> ModelSpec:
    """Reads a spec from a JSON file.

    Raises:
        BadSpec: the file cannot be read or does not describe a model. The message says where.
    """
    said = _read_object(path)
    for key, value in said.items():
        _check(path, key, value)
    like = _like(path, said.get("like"), known)
    network = {key: _frozen(said[key]) for key in _NETWORK if key in said}
    seen = {key: _frozen(said[key]) for key in _PREPROCESSING if key in said}
    for key in ("categories", "weights", *(() if like else _NEEDED)):
        if key not in said:
            raise BadSpec(f"Model {path}: {key!r} is missing{'' if like else _OR_LIKE}.")
    spec = ModelSpec(
        **({key: getattr(like, key) for key in _NETWORK} if like else {}) | network,
        name=path.stem,
        preprocessing=Preprocessing(**(vars(like.preprocessing) if like else {}) | seen),
        categories=_categories(path, said["categories"]),
        weights={OWN: _weights(path, said)},
    )
    _check_shape(path, spec)
    return spec


def _read_object(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSpec(f"Model {path}: {error.strerror}.") from error
    except ValueError as error:
        raise BadSpec(f"Model {path}: not JSON: {error}.") from error
    if not isinstance(said, dict):
        raise BadSpec(f"Model {path}: a {type(said).__name__}, not a JSON object.")
    return said


def _is_count(value: Any) -> bool:  # noqa: ANN401  (any content of the file)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_counts(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is_three(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, list)
        and len(value) == 3  # noqa: PLR2004  (red, green, blue)
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    )


def _is_spread(value: Any) -> bool:  # noqa: ANN401
    return _is_three(value) and all(one > 0 for one in value)


def _is_text(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_labels(value: Any) -> bool:  # noqa: ANN401
    return _is_text(value) or (
        isinstance(value, list) and bool(value) and all(map(_is_text, value))
    )


def _is_sha256(value: Any) -> bool:  # noqa: ANN401
    return _is_text(value) and len(value) <= 64 and set(value) <= set("0123456789abcdef")  # noqa: PLR2004  (hex digits of 256 bits)


_NETWORK: Final[dict[str, tuple[str, Check]]] = {
    "depths": ("a list of numbers of at least 1", _is_counts),
    "cardinality": ("a number of at least 1", _is_count),
    "width_per_group": ("a number of at least 1", _is_count),
    "stage_channels": ("a list of numbers of at least 1", _is_counts),
    "stem": ("imagenet, tiny_imagenet or cifar", lambda value: value in get_args(Stem)),
    "stem_channels": ("a number of at least 1", _is_count),
}
_PREPROCESSING: Final[dict[str, tuple[str, Check]]] = {
    "resize": ("a number of pixels, at least 1", _is_count),
    "crop": ("a number of pixels, at least 1", _is_count),
    "interpolation": ("bilinear or bicubic", lambda value: value in ("bilinear", "bicubic")),
    "mean": ("three numbers for red, green and blue, on the scale 0 to 1", _is_three),
    "std": ("three numbers above 0 for red, green and blue", _is_spread),
}
_KEYS: Final[dict[str, tuple[str, Check]]] = {
    "like": ("the name of a known model", _is_text),
    **_NETWORK,
    **_PREPROCESSING,
    "categories": ("a list of labels, or a text file with one label per line", _is_labels),
    "weights": ("a file", _is_text),
    "sha256": ("up to 64 hex digits", _is_sha256),
    "licence": ("a text", _is_text),
}
# Required if no known model provides them. The others have defaults.
_NEEDED: Final = ("depths", "cardinality", "width_per_group", *_PREPROCESSING)
_OR_LIKE: Final = ", and there is no `like` that names a known model"


def _check(path: Path, key: str, value: Any) -> None:  # noqa: ANN401
    if key not in _KEYS:
        nearest = get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
        raise BadSpec(f"Model {path}: {key!r} is not a known key. Did you mean {nearest!r}?")
    allowed, fits = _KEYS[key]
    if not fits(value):
        raise BadSpec(f"Model {path}: {key!r} must be {allowed}, but is {json.dumps(value)[:100]}.")


def _like(path: Path, name: str | None, known: Mapping[str, ModelSpec]) -> ModelSpec | None:
    if name is None or name in known:
        return None if name is None else known[name]
    raise BadSpec(f"Model {path}: 'like' must be one of {', '.join(known)}, but is {name!r}.")


def _frozen(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value


def _categories(path: Path, said: str | list[str]) -> tuple[str, ...]:
    if isinstance(said, list):
        return tuple(said)
    file = path.parent / said
    try:
        labels = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadSpec(f"Model {path}: categories in {file}: {error}.") from error
    if not labels or not all(map(_is_text, labels)):
        raise BadSpec(
            f"Model {path}: {file} is empty or has an empty line. Write one label per line."
        )
    return tuple(labels)


def _weights(path: Path, said: Mapping[str, Any]) -> LocalWeights:
    """Returns the weights. Only loading checks that the file exists: a producer may not have it."""
    return LocalWeights(
        path=(path.parent / Path(said["weights"]).expanduser()).absolute(),
        licence=said.get("licence", "your own"),
        sha256=said.get("sha256"),
    )


def _check_shape(path: Path, spec: ModelSpec) -> None:
    """Checks that the values fit each other."""
    if len(spec.depths) != len(spec.stage_channels):
        raise BadSpec(
            f"Model {path}: 'depths' has {len(spec.depths)} stages and 'stage_channels' "
            f"{len(spec.stage_channels)}."
        )
