"""The classifier gives the answers of the plain network, whatever the batch, and names itself."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity
from torchvision.models.resnet import Bottleneck, ResNet

from resnext import load_classifier
from resnext.classifier import Classifier
from resnext.errors import DeviceError, UnknownModelError, UnknownWeights
from resnext.network import ResNeXt, build_network
from resnext.picture.preprocess import resize_and_crop, to_rgb
from resnext.run import precision
from resnext.run.engine import PixelsToLogits, fuse, is_openvino_there, prepare
from resnext.run.openvino_engine import convert
from resnext.run.precision import Precision
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.weights.random import calibrate, draw_weights, synthetic_pictures
from tests.pictures.demo import PICTURES

MODEL = "resnext50_32x4d"
# The engines that `auto` may take on a CPU.
ENGINES = ["eager", *(["openvino"] if is_openvino_there() else [])]


def pictures(n: int) -> np.ndarray:
    """(n, 224, 224, 3) uint8: pictures like those that the random network was calibrated on."""
    wanted = find_spec(MODEL).preprocessing
    normal = synthetic_pictures(n + n % 2, wanted, torch.Generator().manual_seed(7))[:n]
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (wanted.mean, wanted.std))
    return ((normal * std + mean) * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module", params=ENGINES)
def classifier(request, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    cache = tmp_path_factory.mktemp("cache")
    loaded = load_classifier(
        MODEL,
        "random",
        precision="fp32",
        device="cpu",
        engine=request.param,
        cache=cache,
        batch_images=6,
    )
    loaded.warm_up()
    return loaded


@pytest.fixture(scope="module")
def small() -> Classifier:
    """A network of 64x64 pixels, for tests in which size does not matter."""
    return load_classifier(BUNDLED, "random", precision="fp32", device="cpu", batch_images=6)


def small_pictures(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def plain() -> ResNet:
    """Torchvision's own network with the same drawn weights."""
    known = find_spec(MODEL)
    network = build_network(known)
    draw_weights(network, known)
    theirs = ResNet(Bottleneck, [3, 4, 6, 3], groups=32, width_per_group=4).eval()
    theirs.load_state_dict(network.state_dict())
    return theirs


def normal(images: np.ndarray) -> torch.Tensor:
    """Normalises as torchvision's ToTensor and Normalize do."""
    wanted = find_spec(MODEL).preprocessing
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (wanted.mean, wanted.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def test_scores_equal_those_of_torchvisions_unfolded_network(classifier, plain) -> None:
    images = pictures(4)
    with torch.inference_mode():
        logits = plain(normal(images))
    expected = logits.softmax(dim=1).sort(dim=1, descending=True)

    found = classifier.classify(images)

    assert largest_difference(classifier._module, images, logits) < 1e-4
    np.testing.assert_allclose(found.scores, expected.values[:, :5].numpy(), atol=1e-4)
    assert np.array_equal(found.class_ids, expected.indices[:, :5].numpy())
    assert found.finite.all()
    assert (found.class_ids.dtype, found.scores.dtype) == (np.int64, np.float32)


def largest_difference(module: torch.nn.Module, images: np.ndarray, logits: torch.Tensor) -> float:
    """Returns the largest difference of the logits, relative to the largest logit if above 1."""
    with torch.inference_mode():
        found = module(torch.from_numpy(images))
    return ((found - logits).abs().max() / max(1.0, logits.abs().max())).item()


def test_batch_size_and_neighbours_change_no_prediction(classifier) -> None:
    images = pictures(6)
    together = classifier.classify(images)
    for n in (1, 2, 3, 5):
        fewer = classifier.classify(images[:n])
        assert fewer.scores.shape == (n, 5)
        np.testing.assert_allclose(fewer.scores, together.scores[:n], atol=1e-4)
        assert np.array_equal(fewer.class_ids, together.class_ids[:n])


def test_after_warm_up_the_network_meets_no_new_shape(classifier, monkeypatch) -> None:
    shapes = []
    forward = classifier._module.forward
    monkeypatch.setattr(
        classifier._module, "forward", lambda x: shapes.append(len(x)) or forward(x)
    )
    classifier.warm_up()
    warm = set(shapes)
    for n in range(1, 7):
        classifier.classify(np.zeros((n, 224, 224, 3), np.uint8))
    assert set(shapes) == warm == {1, 2, 3, 6}


def test_read_only_and_strided_batches_are_accepted(classifier) -> None:
    images = pictures(4)
    expected = classifier.classify(images[::2])
    images.flags.writeable = False
    assert np.array_equal(expected.class_ids, classifier.classify(images).class_ids[::2])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 224, 224, 3), np.uint8),
        np.zeros((7, 224, 224, 3), np.uint8),
        np.zeros((1, 3, 224, 224), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
    ],
)
def test_a_batch_of_another_shape_or_type_is_refused(classifier, images) -> None:
    with pytest.raises(ValueError, match="uint8"):
        classifier.classify(images)


class SmallMemory(torch.nn.Module):
    """A device whose memory holds this many pictures at once."""

    def __init__(self, module: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most
        self.sizes: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(len(pixels))
        return self.module(pixels)


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_that_is_logged_once(
    small, caplog
) -> None:
    images = small_pictures(6)
    expected = small.classify(images)
    cramped = copy.copy(small)
    cramped._module = SmallMemory(small._module, most=3)
    cramped._use("eager")
    cramped.warm_up()
    found = cramped.classify(images)
    assert cramped._module.sizes[-2:] == [3, 3]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert np.array_equal(found.class_ids, expected.class_ids)
    assert caplog.text.count("do not fit into the memory of cpu") == 1


def test_a_device_without_memory_for_one_picture_is_an_error(small) -> None:
    cramped = copy.copy(small)
    cramped._module = SmallMemory(small._module, most=0)
    cramped._use("eager")
    with pytest.raises(torch.OutOfMemoryError):
        cramped.warm_up()


def test_a_cpu_that_runs_out_of_memory_is_recognised_as_well(tmp_path: Path) -> None:
    """A child process limits its address space once the network is loaded."""
    program = """
import resource, sys
import numpy as np
from resnext import load_classifier
from resnext.run import runner
runner.MOST_IMAGES = 4096  # at once, as of large pictures
classifier = load_classifier(
    "resnext_tiny_imagenet", "random", precision="fp32", batch_images=4096, engine="eager"
)
classifier.classify(np.zeros((1, 64, 64, 3), np.uint8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
images = np.zeros((4096, 64, 64, 3), np.uint8)
print(classifier.classify(images).finite.sum(), classifier._most)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    images, most = map(int, done.stdout.split())
    assert images == 4096
    assert most < 4096
    assert "do not fit" in done.stderr


def test_without_a_compiler_the_network_runs_uncompiled_and_says_so(
    tmp_path: Path,
) -> None:
    program = """
import numpy as np
from resnext import load_classifier
classifier = load_classifier(
    "resnext_tiny_imagenet", "random", device="cpu", engine="compiled", batch_images=1
)
classifier.warm_up()
print(classifier.engine, classifier.classify(np.zeros((1, 64, 64, 3), np.uint8)).finite.all())
"""
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": str(nothing), "HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "eager True\n"
    assert "cannot be compiled here and runs uncompiled" in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_network_gives_the_same_answers(small) -> None:
    compiled = load_classifier(
        BUNDLED, "random", precision="fp32", device="cpu", engine="compiled", batch_images=2
    )
    compiled.warm_up()
    assert compiled.engine == "compiled"
    images = small_pictures(2)
    np.testing.assert_allclose(
        compiled.classify(images).scores, small.classify(images).scores, atol=1e-4
    )


class Scores(torch.nn.Module):
    """A network with fixed scores, for cases that a real one does not produce on demand."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scores[: len(pixels)]


def scoring(classifier: Classifier, scores: list[list[float]]) -> Classifier:
    return Classifier(
        classifier.spec,
        Scores(torch.tensor(scores)),  # type: ignore[arg-type]
        weights="random",
        weights_sha256="0" * 64,
        licence="none",
        device=torch.device("cpu"),
        precision="fp32",
        batch_images=len(scores),
    )


def test_of_equal_scores_the_lower_class_id_comes_first(classifier) -> None:
    tied = [0.0] * 1000
    tied[900] = tied[17] = 3.0
    found = scoring(classifier, [tied]).classify(pictures(1))
    assert found.class_ids.tolist() == [[17, 900, 0, 1, 2]]


def test_scores_that_are_not_finite_spoil_only_their_own_picture(classifier) -> None:
    good = [float(n) for n in range(10)]
    bad, huge = [*good[:9], float("nan")], [*good[:9], float("inf")]
    found = scoring(classifier, [good, bad, huge, good]).classify(pictures(4))
    assert found.finite.tolist() == [True, False, False, True]
    assert found.class_ids[3].tolist() == [9, 8, 7, 6, 5]
    assert np.isfinite(found.scores).all()


def test_a_network_with_fewer_than_five_classes_returns_all_of_them(classifier) -> None:
    found = scoring(classifier, [[1.0, 3.0, 2.0]]).classify(pictures(1))
    assert found.class_ids.tolist() == [[1, 2, 0]]
    assert found.scores.sum() == pytest.approx(1.0)


def test_random_weights_are_named_reproducible_and_distinguish_pictures(classifier, plain) -> None:
    assert (classifier.model, classifier.weights) == (MODEL, "random")
    assert len(bytes.fromhex(classifier.weights_sha256)) == 32
    known = find_spec(MODEL)
    again = build_network(known)
    assert draw_weights(again, known) == classifier.weights_sha256
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, again.state_dict()[key]), key
    assert draw_weights(again, known, seed=1) != classifier.weights_sha256
    found = classifier.classify(pictures(6))
    assert len({tuple(ids) for ids in found.class_ids}) == 6
    assert (found.scores[:, 0] > 0.01).all()


def test_activations_of_random_weights_stay_far_below_the_limits_of_fp16(classifier) -> None:
    largest: list[float] = []
    hooks = [
        module.register_forward_hook(lambda *a: largest.append(float(a[2].abs().max())))
        for module in classifier._module.modules()
    ]
    classifier.classify(np.concatenate([pictures(5), np.full((1, 224, 224, 3), 255, np.uint8)]))
    for hook in hooks:
        hook.remove()
    assert max(largest) < torch.finfo(torch.float16).max / 10


@pytest.mark.parametrize("name", ["mine.pth.tar", "a.b.safetensors"])
def test_weights_are_loaded_by_path(name, plain, tmp_path: Path) -> None:
    path = tmp_path / name
    tensors = plain.state_dict()
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    loaded = load_classifier(MODEL, str(path), cache=tmp_path, device="cpu", batch_images=1)
    assert (loaded.weights, loaded.licence) == (str(path), "your own")
    assert loaded.classify(pictures(1)).finite.all()


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """(4, 224, 224, 3) uint8."""
    names = ("chelsea", "coffee", "shepherd", "bison")
    return np.stack(
        [
            resize_and_crop(
                to_rgb(Image.open(PICTURES / f"{name}.jpg")), find_spec(MODEL).preprocessing
            )
            for name in names
        ]
    )


@pytest.fixture(scope="module")
def conditioned(photographs) -> ResNeXt:
    """Random weights with batch-norms calibrated on photographs.

    Without that, a random ResNeXt overflows fp16, and its answers prove nothing.
    """
    known = find_spec(MODEL)
    network = build_network(known)
    draw_weights(network, known)
    calibrate(network, normal(photographs))
    return network


def plain_module(network: ResNeXt, computed: Precision) -> PixelsToLogits:
    return prepare(network, find_spec(MODEL).preprocessing, torch.device("cpu"), computed)


def fused_module(network: ResNeXt, computed: Precision) -> PixelsToLogits:
    module = plain_module(network, computed)
    fuse(module, torch.device("cpu"), find_spec(MODEL).preprocessing.crop)
    return module


def converted_module(network: ResNeXt, computed: Precision) -> torch.nn.Module:
    pytest.importorskip("openvino")
    crop = find_spec(MODEL).preprocessing.crop
    return convert(plain_module(network, "fp32"), crop, computed, threads=2)


@pytest.mark.parametrize(
    ("make", "computed", "bound"),
    [
        (plain_module, "bf16", 0.05),
        (fused_module, "bf16", 0.05),
        (converted_module, "bf16", 0.05),
        (plain_module, "fp16", 0.01),  # used only on CUDA
    ],
)
def test_answers_in_half_precision_are_close_to_those_in_fp32(
    make, computed, bound, conditioned, photographs
) -> None:
    """A CPU without half precision in hardware emulates it: slower, with the same arithmetic."""
    half = make(copy.deepcopy(conditioned), computed)
    with torch.inference_mode():
        exact = conditioned(normal(photographs))
        rounded = half(torch.from_numpy(photographs))
    assert rounded.dtype == torch.float32
    assert ((rounded - exact).norm() / exact.norm()).item() < bound
    assert cosine_similarity(rounded, exact).min() > 0.99


def test_a_cpu_without_bf16_computes_in_fp32_and_says_so_once(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor : 0\nflags : fpu sse2 avx2 avx512f\n")
    monkeypatch.setattr(precision, "_CPU_INFO", cpu_info)
    with caplog.at_level("INFO"):
        assert precision.choose_precision("amp", torch.device("cpu")) == "fp32"
    assert len(caplog.records) == 1
    assert "no bf16 in hardware" in caplog.text


def test_amp_on_cuda_is_fp16_and_fp32_turns_tf32_off() -> None:
    assert precision.choose_precision("amp", torch.device("cuda", 0)) == "fp16"
    assert precision.choose_precision("fp32", torch.device("cuda", 0)) == "fp32"
    for operation in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        assert operation.fp32_precision == "ieee"
    assert not torch.backends.cudnn.allow_tf32  # torch.export reads this name


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_does_not_exist_is_reported(device, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=repr(device)):
        load_classifier(MODEL, "random", device=device, cache=tmp_path)


def test_weights_that_are_neither_a_name_nor_a_file_are_refused_with_the_known_names(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnknownWeights, match=r"'nvida' are neither .*nvidia, random\) nor a file"):
        load_classifier("resnext101_32x4d", "nvida", cache=tmp_path)


def test_an_unknown_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError):
        load_classifier("resnet", "random", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_spec(MODEL).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("number", [1, 4, 6])
def test_pictures_in_the_classifiers_own_memory_get_the_same_answers(
    small: Classifier, number: int
) -> None:
    """They are equal to the bit, whatever the previous batch left in that memory."""
    images = small_pictures(number)
    expected = small.classify(images)
    room = small.room()
    assert room.shape == (small.batch_images, 64, 64, 3)
    room[:] = 255
    room[:number] = images
    found = small.classify(room[:number])
    assert np.array_equal(found.class_ids, expected.class_ids)
    assert np.array_equal(found.scores, expected.scores)
