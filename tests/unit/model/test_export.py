"""The export: each format's own runtime gives the classifier's answers; nothing is half done."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from resnext import load_classifier
from resnext.classifier import Classifier
from resnext.errors import ExportError, ExportUnavailable
from resnext.export.triton import BACKENDS, publishing
from resnext.export.write import Exported, export_model, write_graph
from resnext.load import load_network
from resnext.run.engine import PixelsToLogits, prepare
from resnext.spec.catalogue import find_spec

MODEL = "resnext_tiny_imagenet"
SPEC = find_spec(MODEL)
FORMATS = ("onnx", "torchscript", "pt2")

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def pictures(n: int) -> np.ndarray:
    """(n, 64, 64, 3) uint8, all different."""
    return np.random.default_rng(n).integers(0, 256, (n, 64, 64, 3), np.uint8)


def open_file(file: Path) -> Run:
    """Opens the file in its format's runtime: pixels → class ids, scores."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda pixels: tuple(session.run(["class_ids", "scores"], {"pixels": pixels}))
    if file.suffix == ".pt":
        module = torch.jit.load(file)
    else:
        module = torch._inductor.aoti_load_package(str(file))

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            class_ids, scores = module(torch.from_numpy(pixels))
        return class_ids.numpy(), scores.numpy()

    return run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    cache = tmp_path_factory.mktemp("cache")
    return load_classifier(
        MODEL, "random", precision="fp32", device="cpu", cache=cache, batch_images=9
    )


def export(layout: str, output: Path, **options: object) -> Exported:
    return export_model(
        MODEL, layout, output, weights="random", precision="fp32", device="cpu", **options
    )


@pytest.mark.timeout(900)  # one of the formats compiles, and other programs may run
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")
@pytest.mark.parametrize("layout", FORMATS)
def test_an_exported_file_gives_the_classifiers_answers(layout, classifier, tmp_path) -> None:
    exported = export(layout, tmp_path / "models", batch_images=64)

    folder = tmp_path / "models" / MODEL
    assert (exported.folder, exported.precision) == (folder, "fp32")
    assert exported.file == folder / "1" / BACKENDS[layout].file_name
    assert [path.name for path in (tmp_path / "models").iterdir()] == [MODEL]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.pbtxt", "labels.txt", f"1/{BACKENDS[layout].file_name}"}
    assert (folder / "labels.txt").read_text() == "".join(f"{name}\n" for name in SPEC.categories)
    run = open_file(exported.file)
    for n in (1, 2, 9):
        expected = classifier.classify(pictures(n))
        class_ids, scores = run(pictures(n))
        assert (class_ids.dtype, scores.dtype) == (np.int64, np.float32)
        assert np.array_equal(expected.class_ids, class_ids)
        np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=1e-4)
    assert not torch.backends.cudnn.allow_tf32  # unchanged since the classifier set it


class Tied(torch.nn.Module):
    """Returns fixed scores, and NaN for a black picture."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("scores", torch.tensor([0.0, 3, 0, 0, 0, 0, 0, 0, 3, 0]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        light = pixels.float().mean((1, 2, 3))
        return self.scores * (light / light)[:, None]


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")
@pytest.mark.parametrize("layout", FORMATS)
def test_of_equal_scores_the_lower_class_id_comes_first_and_nan_stays(layout, tmp_path) -> None:
    file = tmp_path / BACKENDS[layout].file_name
    write_graph(Tied(), SPEC, layout, file)
    light, dark = np.ones((2, 64, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.uint8)
    class_ids, scores = open_file(file)(np.concatenate([light, dark]))
    assert class_ids[:2].tolist() == [[1, 8, 0, 2, 3]] * 2
    assert np.isnan(scores[2]).all()
    assert np.isfinite(scores[:2]).all()


def test_an_amp_export_for_cuda_is_close_to_fp32(classifier, tmp_path) -> None:
    """Runs the same graph in fp16 on a CPU; ONNX Runtime emulates fp16."""
    network = load_network(SPEC, "random", tmp_path).network
    half = prepare(network, SPEC.preprocessing, torch.device("cpu"), "fp16")
    write_graph(half, SPEC, "onnx", tmp_path / "model.onnx")
    _, scores = open_file(tmp_path / "model.onnx")(pictures(4))
    expected = classifier.classify(pictures(4)).scores
    np.testing.assert_allclose(scores, expected, rtol=0, atol=0.01)
    assert scores.dtype == np.float32


def text_of(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the configuration of a model whose file is left empty."""

    def write(module: PixelsToLogits, *_: object) -> None:
        assert module.mean.device.type == "cpu"

    monkeypatch.setattr("resnext.export.write.write_graph", write)
    exported = export_model(
        MODEL, layout, tmp_path, weights="random", device="cpu", batch_images=64
    )
    assert exported.precision == "fp32"  # whatever amp means to the classifier
    return (exported.folder / "config.pbtxt").read_text()


def test_the_configuration_tells_triton_what_it_needs(tmp_path, monkeypatch) -> None:
    text = text_of("onnx", tmp_path, monkeypatch)
    notes, configuration = re.fullmatch(r"((?:#.*\n)*)((?:.*\n)*)", text).groups()
    assert "random (licence: none: drawn, not trained), in fp32" in notes
    assert "as they are stored (an orientation in EXIF is ignored)" in notes
    assert str(tmp_path) not in text
    assert (
        configuration
        == """name: "resnext_tiny_imagenet"
backend: "onnxruntime"
platform: "onnxruntime_onnx"
max_batch_size: 64
input [
  {
    name: "pixels"
    data_type: TYPE_UINT8
    format: FORMAT_NHWC
    dims: [ 64, 64, 3 ]
  }
]
output [
  {
    name: "class_ids"
    data_type: TYPE_INT64
    dims: [ 5 ]
    label_filename: "labels.txt"
  },
  {
    name: "scores"
    data_type: TYPE_FP32
    dims: [ 5 ]
  }
]
dynamic_batching { }
"""
    )


@pytest.mark.parametrize(
    ("layout", "platform", "instances"),
    [("torchscript", "pytorch_libtorch", []), ("pt2", "torch_aoti", ["KIND_CPU"])],
)
def test_pytorch_formats_name_tensors_by_position_and_pt2_names_its_device(
    layout, platform, instances, tmp_path, monkeypatch
) -> None:
    text = text_of(layout, tmp_path, monkeypatch)
    assert f'backend: "pytorch"\nplatform: "{platform}"\n' in text
    names = re.findall(r'^    name: "(.*)"$', text, re.MULTILINE)
    assert names == ["INPUT__0", "OUTPUT__0", "OUTPUT__1"]
    assert re.findall(r"kind: (\w+)", text) == instances
    assert ("it runs only on a CPU with" in text) == (layout == "pt2")


def fill(folder: Path, content: str) -> None:
    (folder / "config.pbtxt").write_text(content)


def test_an_existing_model_is_replaced_only_with_force(tmp_path) -> None:
    for content in ("first", "second"):
        with publishing(tmp_path, "model", force=content == "second") as folder:
            fill(folder, content)
        assert (tmp_path / "model" / "config.pbtxt").read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with (
        pytest.raises(ExportError, match=r"already exists.*--force"),
        publishing(tmp_path, "model", force=False),
    ):
        pytest.fail("the export must fail before any work")
    assert (tmp_path / "model" / "config.pbtxt").read_text() == "second"


def test_a_folder_that_is_not_a_model_is_never_replaced(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").touch()
    with (
        pytest.raises(ExportError, match="is not a Triton model"),
        publishing(tmp_path, "model", force=True),
    ):
        pass
    assert (tmp_path / "model" / "thesis.tex").exists()


def _break_off(repository: Path, *, force: bool) -> None:
    with publishing(repository, "model", force=force) as folder:
        fill(folder, "second")
        raise KeyboardInterrupt


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_export_leaves_everything_as_it_was(force, tmp_path) -> None:
    repository = tmp_path / "models"
    if force:
        with publishing(repository, "model", force=False) as folder:
            fill(folder, "first")
    with pytest.raises(KeyboardInterrupt):
        _break_off(repository, force=force)
    assert repository.exists() == force
    if force:
        assert [path.name for path in repository.iterdir()] == ["model"]
        assert (repository / "model" / "config.pbtxt").read_text() == "first"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path) -> None:
    (tmp_path / "models").touch()
    with (
        pytest.raises(ExportUnavailable, match=r"models.* cannot be written: "),
        publishing(tmp_path / "models", "model", force=False) as folder,
    ):
        fill(folder, "first")


def test_pt2_without_a_compiler_fails_before_anything_is_loaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(
        ExportUnavailable, match=r"C\+\+ compiler, but /nowhere/g\+\+ was not found"
    ):
        export("pt2", tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_is_reported_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("C++ compile error\n\nCommand: …")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(ExportUnavailable, match=r"cannot be compiled here: C\+\+ compile error$"):
        export("pt2", tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_onnx_without_its_packages_says_what_to_install(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ExportUnavailable, match=rf"needs {package}, .*\[worker,export\]"):
        export("onnx", tmp_path / "models")
