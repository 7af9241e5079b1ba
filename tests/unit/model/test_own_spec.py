"""A user's own network from a JSON file: its keys override, and mistakes are named by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.models import default_weights, short_model, title_of
from resnext import load_classifier
from resnext.errors import BadSpec
from resnext.network import build_network
from resnext.spec.catalogue import BUNDLED, find_spec, known_specs, wordnet_ids
from resnext.spec.model import LocalWeights
from resnext.weights.random import draw_weights


@pytest.fixture
def birds(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "labels.txt").write_text("robin\nwren\ntit\n")
    return {"like": BUNDLED, "categories": "labels.txt", "weights": "birds.pth"}


def write(folder: Path, said: Any) -> str:
    path = folder / "birds.json"
    path.write_text(json.dumps(said))
    return str(path)


def test_a_spec_overrides_only_its_own_keys_of_the_network_it_is_like(birds, tmp_path) -> None:
    spec = find_spec(write(tmp_path, birds | {"crop": 28, "mean": [0.5, 0.5, 0.5]}))
    like = find_spec(BUNDLED)
    assert (spec.name, spec.categories) == ("birds", ("robin", "wren", "tit"))
    assert (spec.depths, spec.stem, spec.stage_channels) == (
        like.depths,
        like.stem,
        like.stage_channels,
    )
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (64, 28)
    assert spec.preprocessing.mean == (0.5, 0.5, 0.5)
    assert spec.weights["own"] == LocalWeights(path=tmp_path / "birds.pth", licence="your own")


def test_weights_are_loaded_from_the_folder_of_the_spec(birds, tmp_path) -> None:
    path = write(tmp_path, birds)
    spec = find_spec(path)
    network = build_network(spec)
    draw_weights(network, spec)
    torch.save(network.state_dict(), tmp_path / "birds.pth")
    classifier = load_classifier(path, device="cpu", batch_images=2)
    labels = {guess.label for guess in classifier.predict([_grey()])[0].top5}
    assert labels == {"robin", "wren", "tit"}
    assert classifier.weights == "own"


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (40, 30), "grey")


def test_a_complete_spec_needs_no_known_network(tmp_path) -> None:
    said = {
        "depths": [1, 1],
        "cardinality": 2,
        "width_per_group": 4,
        "stage_channels": [16, 32],
        "stem_channels": 8,
        "resize": 36,
        "crop": 32,
        "interpolation": "bicubic",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "categories": ["yes", "no"],
        "weights": "w.safetensors",
        "licence": "MIT",
    }
    spec = find_spec(write(tmp_path, said))
    assert build_network(spec).fc.weight.shape == (2, 32)
    assert spec.weights["own"].licence == "MIT"


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 16), ("tiny_imagenet", 32), ("cifar", 64)])
def test_each_stem_shrinks_pictures_by_its_own_factor(stem, side, birds, tmp_path) -> None:
    spec = find_spec(write(tmp_path, birds | {"stem": stem}))
    network = build_network(spec)
    pictures = torch.empty(1, 3, 64, 64, device="meta")
    assert network.maxpool(network.conv1(pictures)).shape[-2:] == (side, side)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"like": "resnet"}, "'like' must be one of resnext101_32x4d, "),
        ({"catgories": []}, "'catgories' is not a known key. Did you mean 'categories'?"),
        ({"depths": [3, 0]}, "'depths' must be a list of numbers of at least 1, but is [3, 0]."),
        ({"depths": [3, 3]}, "'depths' has 2 stages and 'stage_channels' 4."),
        (
            {"std": [1, 0, 1]},
            "'std' must be three numbers above 0 for red, green and blue, but is [1, 0, 1].",
        ),
        (
            {"interpolation": "area"},
            "'interpolation' must be bilinear or bicubic, but is \"area\".",
        ),
        ({"crop": True}, "'crop' must be a number of pixels, at least 1, but is true."),
        ({"categories": "none.txt"}, "none.txt"),
        (
            {"categories": []},
            "must be a list of labels, or a text file with one label per line, but is [].",
        ),
        ({"sha256": "xyz"}, "'sha256' must be up to 64 hex digits, but is \"xyz\"."),
    ],
)
def test_a_mistake_is_reported_with_its_key_and_value(change, message, birds, tmp_path) -> None:
    with pytest.raises(BadSpec) as error:
        find_spec(write(tmp_path, birds | change))
    assert message in str(error.value)
    assert "birds.json" in str(error.value)


@pytest.mark.parametrize("key", ["weights", "categories"])
def test_a_missing_key_is_reported(key, birds, tmp_path) -> None:
    del birds[key]
    with pytest.raises(BadSpec, match=f"'{key}' is missing"):
        find_spec(write(tmp_path, birds))


def test_without_a_known_network_the_spec_must_be_complete(birds, tmp_path) -> None:
    del birds["like"]
    with pytest.raises(BadSpec, match="'depths' is missing, and there is no `like` that"):
        find_spec(write(tmp_path, birds))


@pytest.mark.parametrize("text", ["[1, 2]", "{", "\xff\xfe"])
def test_a_file_that_is_not_a_json_object_is_reported(text, tmp_path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadSpec, match=r"odd\.json: (not JSON|a list, not a JSON object)"):
        find_spec(str(path))


def test_a_missing_file_is_reported(tmp_path) -> None:
    with pytest.raises(BadSpec, match=r"gone\.json: No such file"):
        find_spec(str(tmp_path / "gone.json"))


def test_producers_know_the_default_weights_of_every_model() -> None:
    assert {name: default_weights(name) for name in known_specs()} == {
        name: spec.weights_names[0] for name, spec in known_specs().items()
    }
    assert default_weights("/models/birds.json") == "own"


def test_titles_name_model_and_weights_without_folders_and_file_extensions() -> None:
    assert title_of("resnext50_32x4d", "/w/mine.pth.tar") == "resnext50_32x4d/mine"
    assert title_of("/models/birds.json", "own") == "birds/own"
    assert title_of("resnext101_32x4d.gluon_in1k", "timm") == "resnext101_32x4d.gluon_in1k/timm"
    assert short_model("/models/birds.json") == "birds"


def test_the_small_models_labels_are_among_those_of_imagenet() -> None:
    """A word in SQL means the same with the small model and with NVIDIA's."""
    labels = find_spec(BUNDLED).categories
    all_labels = find_spec("resnext101_32x4d").categories
    ids = [all_labels.index(label) for label in labels]
    assert len(labels) == len(set(ids)) == len(set(wordnet_ids())) == 200
    assert ids == sorted(ids)
    assert list(wordnet_ids()) == sorted(wordnet_ids())  # ImageNet's ids follow this order
    assert {"tabby", "espresso", "school bus"} <= set(labels)
