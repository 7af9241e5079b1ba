"""OpenVINO as the engine on a CPU: when `auto` takes it, and that its answers match eager ones."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext import load_classifier
from resnext.classifier import Classifier
from resnext.errors import EngineError
from resnext.network import build_network
from resnext.run.engine import choose_engine, prepare
from resnext.run.openvino_engine import convert
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.weights.random import draw_weights

CPU = torch.device("cpu")


def load(engine: str, batch_images: int = 6) -> Classifier:
    return load_classifier(
        BUNDLED,
        "random",
        precision="fp32",
        device="cpu",
        engine=engine,  # type: ignore[arg-type]
        batch_images=batch_images,
    )


def small_pictures(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 64, 64, 3), np.uint8)


# Choosing


def test_auto_takes_openvino_if_it_is_installed() -> None:
    pytest.importorskip("openvino")
    assert choose_engine("auto", CPU) == "openvino"
    assert choose_engine("eager", CPU) == "eager"
    assert load("auto").engine == "openvino"


def test_auto_runs_eagerly_if_openvino_is_not_installed(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert choose_engine("auto", CPU) == "eager"
    assert load("auto").engine == "eager"
    assert not caplog.records
    with pytest.raises(EngineError, match=r"is not installed\. Install it with: pip install '\.\["):
        load("openvino")


def test_an_openvino_that_cannot_be_imported_is_reported_and_auto_runs_eagerly(
    tmp_path: Path,
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')\n")
    program = f"""
import sys
from resnext import load_classifier
for engine in ("auto", "openvino"):
    loaded = load_classifier({BUNDLED!r}, "random", device="cpu", engine=engine, batch_images=1)
    print(loaded.engine)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "eager\n", done.stderr
    assert "The network runs eagerly, which is slower: The engine 'openvino' needs" in done.stderr
    assert "needs OpenVINO, which cannot be imported (libtbb.so.12 is missing)" in done.stderr
    assert "\nresnext.errors.EngineError: " in done.stderr


def test_an_error_of_openvino_says_what_to_do(monkeypatch) -> None:
    openvino = pytest.importorskip("openvino")

    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from core.cpp:1:\nno such instruction\n")

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    with pytest.raises(
        EngineError, match=r"core\.cpp:1: no such instruction Choose another engine"
    ):
        load("openvino")
    assert load("auto").engine == "eager"


# Computing


@pytest.fixture(scope="module")
def eager() -> Classifier:
    return load("eager", 33)


@pytest.fixture(scope="module")
def openvino() -> Classifier:
    pytest.importorskip("openvino")
    return load("openvino", 33)


@pytest.mark.parametrize("images", [1, 3, 4, 5, 33])
def test_batches_of_every_size_get_the_same_answers_as_in_eager_mode(
    images, eager, openvino
) -> None:
    pixels = small_pictures(images)
    expected = eager.logits(pixels)
    np.testing.assert_allclose(
        openvino.logits(pixels), expected, atol=1e-4 * max(1.0, np.abs(expected).max())
    )


def test_the_results_of_a_batch_stay_valid_while_the_next_one_runs(openvino) -> None:
    first, second = small_pictures(8)[:4], small_pictures(8)[4:]
    kept = openvino.start(first)
    openvino.classify(second)
    again = openvino.classify(first)
    assert kept.result().class_ids.tolist() == again.class_ids.tolist()
    assert kept.result().scores.tolist() == again.scores.tolist()


def test_it_may_run_in_another_thread_than_the_one_that_loaded_it(openvino) -> None:
    pixels = small_pictures(5)
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(openvino.logits, pixels).result()
    np.testing.assert_allclose(found, openvino.logits(pixels), atol=1e-5)


def test_a_network_of_unusual_sizes_is_converted_correctly() -> None:
    """It has an ImageNet stem, its own mean, groups of five and three classes."""
    pytest.importorskip("openvino")
    like = find_spec("resnext50_32x4d")
    spec = dataclasses.replace(
        like,
        name="odd",
        depths=(1, 2, 1),
        cardinality=3,
        width_per_group=5,
        stage_channels=(24, 40, 56),
        stem_channels=12,
        categories=("robin", "wren", "tit"),
        preprocessing=dataclasses.replace(like.preprocessing, crop=75, mean=(0.1, 0.2, 0.3)),
    )
    network = build_network(spec)
    draw_weights(network, spec)
    module = prepare(network, spec.preprocessing, CPU, "fp32")
    pixels = torch.randint(0, 256, (6, 75, 75, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = module(pixels)
        found = convert(module, 75, "fp32", threads=1)(pixels)
    assert found.shape == (6, 3)
    assert (found - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
