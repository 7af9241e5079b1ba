"""Reads a weights file in any of the layouts in which ResNeXts are published.

`load_classifier` calls it with a path, and gets tensors that fit the network. Layouts: torch or
safetensors; the tensors themselves, or a checkpoint that contains them; `layerN.` keys
(torchvision, timm, NVIDIA's published file) or `layers.(N-1).` (NVIDIA's training code); with or
without the `module.` of data-parallel training. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from resnext.errors import DamagedWeights, ForeignWeights, UnknownWeights, WeightsError
from resnext.weights.pin import check_pin

# The keys under which training programs save tensors: NVIDIA's and timm's, torchvision's.
_WRAPPERS: Final = ("state_dict", "model")
_SHOWN_KEYS: Final = 3
_ZIP_MAGIC: Final = b"PK\x03\x04"
_SAFETENSORS_HEADER_BYTES: Final = 8


def read_weights(
    path: Path,
    *,
    sha256: str | None = None,
    size_bytes: int | None = None,
    pinned: bool = False,
) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors by torchvision's names, and the file's SHA-256 in hex.

    The file is read only once, so the hash belongs to the loaded bytes.

    Args:
        path: the file.
        sha256: the required hash, or its first digits.
        size_bytes: the required length.
        pinned: whether the hash must be the one that the first use has pinned.

    Raises:
        UnknownWeights: the file does not exist or cannot be read.
        DamagedWeights: the file is truncated, has another hash, or is not a weights file.
        WeightsError: the pin is damaged.
        ForeignWeights: the file contains something other than one network's tensors.
    """
    content = _read(path)
    if size_bytes is not None and len(content) != size_bytes:
        raise DamagedWeights(
            f"Weights {path}: the file has {len(content):,} bytes, but {size_bytes:,} are "
            "published. It is truncated or another file. Delete it to download it again."
        )
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not digest.startswith(sha256):
        raise DamagedWeights(
            f"Weights {path}: the SHA-256 is {digest}, but {sha256} is published. The file is "
            "damaged or another one. Delete it to download it again."
        )
    if pinned:
        check_pin(path, digest)
    return _rename(_tensors_in(_parse(path, content), path)), digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnknownWeights(f"Weights {path}: the file does not exist.") from error
    except OSError as error:
        raise UnknownWeights(f"Weights {path} cannot be read: {error.strerror}.") from error


def _parse(path: Path, content: bytes) -> Any:  # noqa: ANN401  (any content of the file)
    try:
        if _is_safetensors(content):
            return load_safetensors(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _unpickling_error(path, content) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, content) from error


def _is_safetensors(content: bytes) -> bool:
    """Whether the file starts with a length of eight bytes, then JSON."""
    return content[_SAFETENSORS_HEADER_BYTES : _SAFETENSORS_HEADER_BYTES + 1] == b"{"


def _unpickling_error(path: Path, content: bytes) -> WeightsError:
    if not content.startswith((_ZIP_MAGIC, b"\x80")):
        return _damaged(path, content)
    return ForeignWeights(
        f"Weights {path}: the file is damaged, or contains objects other than tensors. These are "
        "not loaded, because they could run code. Save only the network's state_dict()."
    )


def _damaged(path: Path, content: bytes) -> DamagedWeights:
    if content.startswith((_ZIP_MAGIC, b"\x80")) or _is_safetensors(content):
        return DamagedWeights(
            f"Weights {path}: the file is truncated or damaged ({len(content):,} bytes). "
            "Copy or download it again."
        )
    return DamagedWeights(
        f"Weights {path}: neither a torch nor a safetensors file. It starts with {content[:20]!r}."
    )


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:  # noqa: ANN401  (see _parse)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ForeignWeights(
            f"Weights {path}: the file contains a {type(content).__name__}, not tensors by name."
        )
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise ForeignWeights(
            f"Weights {path}: {_listed(strange)} is not a tensor. "
            f"A checkpoint has its tensors under {' or '.join(_WRAPPERS)}."
        )
    return dict(content)


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_torchvision_name(str(key)): tensor for key, tensor in tensors.items()}


def _torchvision_name(key: str) -> str:
    key = key.removeprefix("module.")
    return re.sub(r"^layers\.(\d+)\.", lambda stage: f"layer{int(stage[1]) + 1}.", key)


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives the network its values, as float32.

    Raises:
        ForeignWeights: the message names the first keys that are missing, unknown or misshapen.
    """
    expected = network.state_dict()
    # Files from PyTorch before 0.4.1 lack this counter, which evaluation never reads.
    given = {
        key: torch.zeros((), dtype=torch.int64) if _is_counter(key) else tensors[key].float()
        for key in expected
        if _is_counter(key) or key in tensors
    }
    faults = list(_misfits(expected, given, tensors))
    if faults:
        raise ForeignWeights(f"Weights {path} are for another network: {'; '.join(faults)}.")
    network.load_state_dict(given, assign=True)


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _misfits(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[str]:
    missing = [key for key in expected if key not in given]
    unknown = [key for key in tensors if key not in expected and not _is_counter(key)]
    reshaped = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
        for key in given
        if given[key].shape != expected[key].shape
    ]
    faults = (
        ("missing", missing),
        ("not of this network", unknown),
        ("of another shape", reshaped),
    )
    return [f"{len(keys)} {what} ({_listed(keys)})" for what, keys in faults if keys]


def _listed(keys: list[str]) -> str:
    shown = ", ".join(str(key) for key in keys[:_SHOWN_KEYS])
    return f"{shown}, …" if len(keys) > _SHOWN_KEYS else shown


def recipe_digest(recipe: Mapping[str, object]) -> str:
    """Returns 64 hex digits that replace a file's SHA-256 for weights that are made by a recipe.

    They hash the recipe, not the tensors, whose last bits differ between processors.
    """
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
