"""Weights files: every published layout fits, and a misfit is described by its keys."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resnext.errors import DamagedWeights, ForeignWeights, UnknownModelError, UnknownWeights
from resnext.network import build_network
from resnext.spec.catalogue import find_spec
from resnext.spec.model import ModelSpec
from resnext.weights.file import fill_network, read_weights


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    """The smallest ResNeXt with four stages."""
    known = find_spec("resnext101_32x4d")
    return dataclasses.replace(
        known, depths=(1, 1, 1, 1), cardinality=2, categories=known.categories[:7]
    )


@pytest.fixture(scope="module")
def tensors(spec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.randn(value.shape, generator=generator)
        for key, value in build_network(spec).state_dict().items()
    }


def nvidias_training_code(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    def name(key: str) -> str:
        return re.sub(r"^layer(\d)", lambda m: f"layers.{int(m[1]) - 1}", key)

    return {name(key): tensor for key, tensor in tensors.items()}


def data_parallel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": tensor for key, tensor in tensors.items()}


LAYOUTS = {
    "torchvision.pth": lambda path, t: torch.save(t, path),
    "nvidia.pth.tar": lambda path, t: torch.save(nvidias_training_code(t), path),
    "parallel.pth.tar": lambda path, t: torch.save(data_parallel(nvidias_training_code(t)), path),
    "checkpoint.pth.tar": lambda path, t: torch.save(
        {"epoch": 90, "state_dict": data_parallel(t), "optimizer": {"lr": 0.1}}, path
    ),
    "torchvision-training.pth": lambda path, t: torch.save({"model": t, "epoch": 9}, path),
    "before-2018.pth": lambda path, t: torch.save(
        {k: v for k, v in t.items() if "tracked" not in k},
        path,
        _use_new_zipfile_serialization=False,
    ),
    "timm.safetensors": lambda path, t: save_file(t, path),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_every_published_layout_fit(layout, spec, tensors, tmp_path: Path) -> None:
    path = tmp_path / layout
    LAYOUTS[layout](path, tensors)

    found, sha256 = read_weights(path)
    network = build_network(spec)
    fill_network(network, found, path)

    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    filled = network.state_dict()
    assert filled.keys() == tensors.keys()
    assert all(torch.equal(tensors[key], filled[key]) for key in tensors)


def test_half_precision_weights_become_float32(spec, tensors, tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in tensors.items()}, tmp_path / "half.safetensors")
    network = build_network(spec)
    found, _ = read_weights(tmp_path / "half.safetensors")
    fill_network(network, found, tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownWeights, match=r"gone\.pth: the file does not exist"):
        read_weights(tmp_path / "gone.pth")


@pytest.mark.parametrize("layout", ["torchvision.pth", "before-2018.pth", "timm.safetensors"])
def test_a_truncated_file_is_reported_as_damaged(layout, tensors, tmp_path: Path) -> None:
    path = tmp_path / layout
    LAYOUTS[layout](path, tensors)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedWeights, match=f"{layout}.*truncated or damaged"):
        read_weights(path)


def test_a_file_with_another_size_or_hash_is_not_opened(tensors, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_weights(path, sha256=digest, size_bytes=path.stat().st_size)[1] == digest
    assert read_weights(path, sha256=digest[:8])[1] == digest
    with pytest.raises(DamagedWeights, match=f"SHA-256 is {digest}, but ab12 is published"):
        read_weights(path, sha256="ab12")
    with pytest.raises(DamagedWeights, match="bytes, but 5 are published"):
        read_weights(path, size_bytes=5)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Log in</html>", b"", b"hello world"])
def test_a_file_without_weights_is_reported_with_its_beginning(content, tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(DamagedWeights, match="neither a torch nor a safetensors file") as error:
        read_weights(path)
    assert repr(content[:20]) in str(error.value)


def test_objects_in_a_file_are_never_created(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ForeignWeights, match="contains objects other than tensors"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "lr": 0.1}])
def test_a_torch_file_without_named_tensors_is_reported(content, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ForeignWeights, match=r"contains a list|epoch, lr is not a tensor"):
        read_weights(tmp_path / "other.pth")


def test_weights_of_another_network_are_reported_with_the_first_misfitting_keys(
    spec, tensors
) -> None:
    del tensors["conv1.weight"]
    foreign = {**tensors, "head.weight": torch.zeros(1), "fc.bias": torch.zeros(1000)}
    network = build_network(spec)
    with pytest.raises(ForeignWeights) as error:
        fill_network(network, foreign, Path("w.pth"))
    assert str(error.value) == (
        "Weights w.pth are for another network: 1 missing (conv1.weight); "
        "1 not of this network (head.weight); 1 of another shape (fc.bias is (1000,), not (7,))."
    )


def test_an_unknown_model_is_reported_with_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownModelError) as error:
        find_spec("resnext101_32x4")
    assert "'resnext101_32x4'. The known models are resnext101_32x4d, resnext50_32x4d" in str(
        error.value
    )
    assert str(error.value).endswith("Did you mean resnext101_32x4d?")


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"])
def test_torchvisions_models_match_torchvisions_own_description(name) -> None:
    from torchvision.models import get_model, get_model_weights

    spec = find_spec(name)
    weights = get_model_weights(name).DEFAULT
    assert spec.weights["torchvision"].address == weights.url
    assert list(spec.categories) == weights.meta["categories"]
    transforms = weights.transforms()
    ours = spec.preprocessing
    assert [ours.resize] == transforms.resize_size
    assert [ours.crop] == transforms.crop_size
    assert list(ours.mean) == transforms.mean
    assert list(ours.std) == transforms.std
    with torch.device("meta"):
        theirs = get_model(name).state_dict()
    assert {k: v.shape for k, v in build_network(spec).state_dict().items()} == {
        k: v.shape for k, v in theirs.items()
    }


def test_nvidias_network_has_as_many_parameters_as_nvidia_states() -> None:
    network = build_network(find_spec("resnext101_32x4d"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 44_177_704
