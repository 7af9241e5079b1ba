"""`resnextq export`: a model repository by the real command, read by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
from PIL import Image

from resnext import load_classifier
from resnext.picture.preprocess import resize_and_crop, to_rgb
from tests.pictures.demo import PICTURES

MODEL = "resnext29_cifar10"
OPTIONS = ("--output", "models", "--model", MODEL, "--weights", "random", "--device", "cpu")


def test_the_command_writes_a_repository_whose_file_answers_alike(bare_installation) -> None:
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
            for name in ("chelsea", "coffee", "rocket")
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
    assert f"models/{MODEL} is there already" in again.stderr


def test_without_a_compiler_pt2_is_not_available_and_leaves_nothing(bare_installation) -> None:
    bare_installation.environment["CXX"] = "/nowhere/g++"
    done = bare_installation.call("export", "--format", "pt2", *OPTIONS)
    assert done.returncode == 3
    assert done.stderr == (
        "resnextq: The format pt2 needs a C++ compiler, and there is no /nowhere/g++: install g++, "
        "or name another compiler in the variable CXX.\n"
    )
    assert not (bare_installation.folder / "models").exists()
