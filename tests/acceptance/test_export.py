"""`resnextq export` writes a model repository, and ONNX Runtime reads it."""

from __future__ import annotations

import numpy as np
import onnxruntime
from PIL import Image

from resnext import load_classifier
from resnext.picture.preprocess import resize_and_crop, to_rgb
from tests.pictures.demo import PICTURES

MODEL = "resnext_tiny_imagenet"
OPTIONS = ("--output", "models", "--model", MODEL, "--weights", "random", "--device", "cpu")


def test_the_exported_model_gives_the_same_answers(bare_installation) -> None:
    command = ("export", "--format", "onnx", *OPTIONS, "--precision", "fp32")
    done = bare_installation.call(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"models/{MODEL}\n"
    assert f"{MODEL}/random in fp32" in done.stderr
    folder = bare_installation.folder / "models" / MODEL
    assert "max_batch_size: 4\n" in (folder / "config.pbtxt").read_text()  # RESNEXT_BATCH_IMAGES

    classifier = load_classifier(MODEL, "random", precision="fp32", device="cpu")
    wanted = classifier.spec.preprocessing
    images = np.stack(
        [
            resize_and_crop(to_rgb(Image.open(PICTURES / f"{name}.jpg")), wanted)
            for name in ("chelsea", "coffee", "goldfish")
        ]
    )
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    class_ids, scores = session.run(["class_ids", "scores"], {"pixels": images})
    expected = classifier.classify(images)
    assert np.array_equal(expected.class_ids, class_ids)
    np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-4)

    again = bare_installation.call(*command)
    assert again.returncode == 2
    assert f"models/{MODEL} already exists" in again.stderr


def test_without_a_compiler_pt2_is_not_available_and_leaves_nothing(bare_installation) -> None:
    bare_installation.environment["CXX"] = "/nowhere/g++"
    done = bare_installation.call("export", "--format", "pt2", *OPTIONS)
    assert done.returncode == 3
    assert done.stderr == (
        "resnextq: The format pt2 needs a C++ compiler, but /nowhere/g++ was not found. Install "
        "g++, or set the variable CXX to another compiler.\n"
    )
    assert not (bare_installation.folder / "models").exists()
