"""Reads a weights file in any of the layouts that ResNeXts are published in.

`load_classifier` calls it with a path; what comes out fits the network. Layouts: torch or
safetensors; the tensors themselves or a checkpoint that holds them; `layerN.` keys
(torchvision, timm, NVIDIA's published file) or `layers.(N-1).` (NVIDIA's training code);
with or without the `module.` of data-parallel training. Nothing in a file is executed.
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

# Where training programs put the tensors: NVIDIA's and timm's, torchvision's.
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
    """The tensors by torchvision's names, and the file's SHA-256 in hex.

    What is hashed is what is opened: the file is read once.

    Args:
        path: the file.
        sha256: what its hash must be, or begin with.
        size_bytes: what its length must be.
        pinned: whether its hash must be the one that its first use has pinned.

    Raises:
        UnknownWeights: no such file, or it cannot be read.
        DamagedWeights: truncated, of another hash, or no file of weights.
        WeightsError: the pin is damaged.
        ForeignWeights: it holds something else than one network's tensors.
    """
    content = _read(path)
    if size_bytes is not None and len(content) != size_bytes:
        raise DamagedWeights(
            f"Weights {path}: {len(content):,} bytes where {size_bytes:,} are published; "
            "the file is truncated or another one. Delete it to have it downloaded again."
        )
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not digest.startswith(sha256):
        raise DamagedWeights(
            f"Weights {path}: SHA-256 is {digest} where {sha256} is published; the file is "
            "damaged or another one. Delete it to have it downloaded again."
        )
    if pinned:
        check_pin(path, digest)
    return _rename(_tensors_in(_parse(path, content), path)), digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnknownWeights(f"Weights {path}: there is no such file.") from error
    except OSError as error:
        raise UnknownWeights(f"Weights {path} cannot be read: {error.strerror}.") from error


def _parse(path: Path, content: bytes) -> Any:  # noqa: ANN401  (whatever the file holds)
    try:
        if _is_safetensors(content):
            return load_safetensors(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _unpickling_error(path, content) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, content) from error


def _is_safetensors(content: bytes) -> bool:
    """A length of eight bytes, then JSON."""
    return content[_SAFETENSORS_HEADER_BYTES : _SAFETENSORS_HEADER_BYTES + 1] == b"{"


def _unpickling_error(path: Path, content: bytes) -> WeightsError:
    if not content.startswith((_ZIP_MAGIC, b"\x80")):
        return _damaged(path, content)
    return ForeignWeights(
        f"Weights {path}: the file is damaged or holds objects besides tensors, which are not "
        "loaded, since they could run code. Save the network's state_dict() alone."
    )


def _damaged(path: Path, content: bytes) -> DamagedWeights:
    if content.startswith((_ZIP_MAGIC, b"\x80")) or _is_safetensors(content):
        return DamagedWeights(
            f"Weights {path}: the file is truncated or damaged ({len(content):,} bytes). "
            "Copy or download it again."
        )
    return DamagedWeights(
        f"Weights {path}: neither a torch nor a safetensors file; it begins with {content[:20]!r}."
    )


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:  # noqa: ANN401  (see _parse)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ForeignWeights(
            f"Weights {path}: the file holds a {type(content).__name__}, not tensors by name."
        )
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise ForeignWeights(
            f"Weights {path}: {_listed(strange)} is no tensor. "
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
        ForeignWeights: naming the first keys that are missing, unknown or of another shape.
    """
    expected = network.state_dict()
    # Files of PyTorch before 0.4.1 lack this counter, which evaluation never reads.
    given = {
        key: torch.zeros((), dtype=torch.int64) if _is_counter(key) else tensors[key].float()
        for key in expected
        if _is_counter(key) or key in tensors
    }
    faults = list(_misfits(expected, given, tensors))
    if faults:
        raise ForeignWeights(f"Weights {path} are of another network: {'; '.join(faults)}.")
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
    """What stands for a file's SHA-256 where the weights are made by a recipe: 64 hex digits.

    Of the recipe, not of the tensors: their last bits differ from one processor to another.
    """
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
