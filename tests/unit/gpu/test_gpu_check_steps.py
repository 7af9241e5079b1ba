"""What the steps of the GPU check notice: a wrong logit, a late capture, a fault.

On a GPU the steps take other code paths than without one; here they run on the doubles of CUDA and
cuDNN.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_check import devices, network, timing
from benchmarks.gpu_check.devices import DOUBLE_BATCH, Tried
from benchmarks.gpu_check.report import Finding, Report, read_findings
from benchmarks.gpu_check.step import FINDINGS, Given
from benchmarks.gpu_check.steps import exactness, faults, lanes, layers
from benchmarks.gpu_check.steps.faults import Fault
from resnext.classifier import Classifier, _top, load_classifier
from resnext.load import load_network
from resnext.run.cuda_runner import CudaRunner
from resnext.run.layers.choice import Candidate, Choice
from resnext.run.layers.shape import ConvShape
from resnext.spec.catalogue import BUNDLED, find_spec
from resnext.weights.random import normalise
from tests.doubles import cuda as double
from tests.doubles import cudnn
from tests.doubles.cuda import Cuda, make_classifier, pictures


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {one.what: one.verdict for one in findings}


# Exactness


@pytest.fixture
def report(tmp_path) -> Report:
    return Report(tmp_path / FINDINGS, "tried")


def found_in(folder: Path) -> dict[str, str]:
    return verdicts(read_findings(folder / FINDINGS, "tried"))


def reference(pixels: np.ndarray) -> np.ndarray:
    """(N, 64, 64, 3) uint8 → (N, 200) float64, by the network as it was trained."""
    spec = find_spec(BUNDLED)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    network = load_network(spec).network.double()
    with torch.inference_mode():
        logits: np.ndarray = network(normalise(images, spec.preprocessing)).numpy()
    return logits


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their logits."""
    pixels = np.random.default_rng(0).integers(256, size=(3, 64, 64, 3), dtype=np.uint8)
    return pixels, reference(pixels)


def make(precision: Any = "fp32") -> Classifier:
    return load_classifier(BUNDLED, device="cpu", precision=precision, batch_images=4)


@pytest.mark.parametrize("precision", ["fp32", "amp"])
def test_the_network_is_exact(report, seen, tmp_path, precision) -> None:
    exactness.compare(make(precision), *seen, report)
    assert "FAIL" not in found_in(tmp_path).values()


@pytest.mark.parametrize("planted_error", [0.01, float("nan")])
def test_a_wrong_logit_fails(report, seen, tmp_path, planted_error) -> None:
    """Only one of ten logits is wrong, for the last picture of the largest batch."""
    classifier = make()
    forward = classifier._forward

    def wrong(pixels: torch.Tensor) -> torch.Tensor:
        logits = forward(pixels)
        if len(pixels) == 4:
            logits[3, 7] += planted_error * logits.abs().max()
        return logits

    classifier._forward = wrong
    classifier._runner = classifier._make_runner(_top)
    exactness.compare(classifier, *seen, report)
    found = found_in(tmp_path)
    assert found["fp32 error of the largest logit"] == found["fp32 relative L2"] == "FAIL"


def test_another_class_fails(report, seen, tmp_path) -> None:
    pixels, logits = seen
    others = np.roll(logits, 1, axis=1)
    exactness.compare(make(), pixels, others, report)
    assert found_in(tmp_path)["fp32 changed classes"] == "FAIL"


def test_a_picture_that_spoils_its_neighbours_fails(report, seen, tmp_path) -> None:
    pixels, _ = seen
    classifier = make()
    forward = classifier._forward
    classifier._forward = lambda images: forward(images) * torch.inf
    classifier._runner = classifier._make_runner(_top)
    exactness.overflow(classifier, np.concatenate([pixels, pixels]), report)
    assert list(found_in(tmp_path).values()) == ["FAIL"]


# Lanes


@pytest.fixture
def tried(monkeypatch) -> Tried:
    """The double, in place of the step's own."""
    gpu = Cuda()
    gpu.install(monkeypatch.setattr)
    made = Tried(
        make=lambda: make_classifier(gpu, DOUBLE_BATCH), pictures=pictures(*range(64)), double=gpu
    )
    monkeypatch.setattr(devices, "find", lambda _: made)
    return made


def check_lanes(folder: Path) -> dict[str, str]:
    given = Given(out=folder, scratch=folder, ends_at=time.time() + 60)
    lanes.check(given, Report(folder / FINDINGS, "tried"))
    return found_in(folder)


def test_correct_lanes_pass(tried, tmp_path) -> None:
    found = check_lanes(tmp_path)
    assert "FAIL" not in found.values()
    assert found["speed"] == "SKIP"


def test_a_capture_after_the_warm_up_fails(tried, tmp_path, monkeypatch) -> None:
    """The warm-up runs only one lane."""
    monkeypatch.setattr(CudaRunner, "lanes", 1)
    found = check_lanes(tmp_path)
    assert found["graphs in each lane"] == found["captures after the warm-up"] == "FAIL"


def test_computing_a_batch_before_its_pictures_have_arrived_fails(
    tried, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(double.Stream, "wait_event", lambda *_: None)
    assert check_lanes(tmp_path)["wrong answers"] == "FAIL"


# Faults


def try_(folder: Path, fault: Fault) -> Finding:
    given = Given(out=folder, scratch=folder, ends_at=time.time() + 60)
    faults.try_(fault, given, Report(folder / FINDINGS, "tried"))
    (found,) = read_findings(folder / FINDINGS, "tried")
    return found


PROGRAM = "tests.doubles.gpu_steps"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(name="ends", what="", status=1, says="broken:", program=PROGRAM), "PASS"),
        (Fault(name="ends", what="", status=1, says="DeviceBroken", program=PROGRAM), "FAIL"),
        (Fault(name="ends", what="", status=0, program=PROGRAM), "FAIL"),
        (Fault(name="aborts", what="", status=1, program=PROGRAM), "FAIL"),
        (Fault(name="hangs", what="", status=1, within_s=2.0, program=PROGRAM), "FAIL"),
        (Fault(name="skips", what="", status=1, program=PROGRAM), "SKIP"),
    ],
    ids=["as it should", "says nothing", "status", "signal", "hangs", "skipped"],
)
def test_a_fault_must_end_as_expected(tmp_path, fault, expected) -> None:
    assert try_(tmp_path, fault).verdict == expected


# Layers

SHAPE = ConvShape(
    kernel=1, in_channels=64, out_channels=256, groups=1, stride=1, padding=0, side=56,
    after="add_relu",
)  # fmt: skip


def judge(folder: Path, *candidates: Candidate) -> list[Finding]:
    choice = Choice(shape=SHAPE, times=3, images=256, candidates=candidates)
    layers.judge([choice], Report(folder / FINDINGS, "tried"), copy_tb_s=4.0, product_tflop_s=800)
    return read_findings(folder / FINDINGS, "tried")


def test_the_sum_of_the_best_ways_counts_each_layer(tmp_path) -> None:
    found = judge(
        tmp_path,
        Candidate(name="cudnn", seconds=0.002, error=1e-4),
        Candidate(name="passes", seconds=0.004, error=1e-4),
        Candidate(name="matrix", fault="out of memory"),
    )
    assert "FAIL" not in verdicts(found).values()
    (sum_,) = (one.value for one in found if one.what == "sum of the best")
    assert sum_ == pytest.approx(256 / (3 * 0.002))


def test_a_way_that_gives_wrong_answers_fails(tmp_path) -> None:
    found = judge(
        tmp_path,
        Candidate(name="cudnn", seconds=0.002, error=1e-4),
        Candidate(name="triton", fault="wrong: its relative error is 1.0e-01, more than 2.0e-03"),
    )
    assert verdicts(found)["no way gives wrong answers"] == "FAIL"


def test_a_layers_floor_is_the_larger_of_traffic_and_arithmetic() -> None:
    numbers = 256 * 56 * 56 * (64 + 256 + 256) + 64 * 256
    assert layers.floor_of(SHAPE, 256, 4.0, 1e9) == pytest.approx(2 * numbers / 4e12)
    assert layers.floor_of(SHAPE, 256, 1e9, 800.0) == pytest.approx(
        2 * 256 * 56 * 56 * 64 * 256 / 800e12
    )


# Steps as they run on a GPU


@pytest.fixture
def gpu(monkeypatch, tmp_path) -> Given:
    """A GPU made of the doubles, with a small trained network."""
    for module in (network, exactness):
        monkeypatch.setattr(module, "MODEL", BUNDLED)
    expected = reference(network.batch_of(network.DIFFERENT))
    monkeypatch.setattr(network, "reference_logits", lambda *_: expected)
    monkeypatch.setattr(network, "weights_in", lambda _: find_spec(BUNDLED).weights["bundled"].path)
    made = Cuda()
    made.install(monkeypatch.setattr)
    cudnn.install(monkeypatch.setattr, spend=made.spend)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(exactness, "_GPU_BATCH", 4)
    monkeypatch.setattr(devices, "GPU_BATCH", 4)
    monkeypatch.setattr(lanes, "_GPU_BATCHES", 12)
    monkeypatch.setattr(layers, "BATCH", 4)
    monkeypatch.setattr(timing.images_per_s, "__defaults__", (0.0,))
    return Given(out=tmp_path, scratch=tmp_path, ends_at=time.time() + 100)


def test_all_layers_are_measured_and_correct(gpu, report, tmp_path) -> None:
    layers.check(gpu, report)
    found = found_in(tmp_path)
    assert "FAIL" not in found.values()
    assert "1x 3x3, 3 to 32 channels, stride 2, 64x64, relu" in found


def test_on_a_gpu_lanes_are_compared_and_timed(gpu, report, tmp_path) -> None:
    lanes.check(gpu, report)
    found = found_in(tmp_path)
    del found["with copies, of replay alone"]  # a time on a double means nothing
    assert "FAIL" not in found.values()
    assert found["lane 0 beside lane 1, of a score"] == "PASS"


def test_on_a_gpu_half_precision_is_exact_in_every_size(gpu, report, tmp_path) -> None:
    exactness.check(gpu, report)
    found = found_in(tmp_path)
    del found["only pictures that overflow fail"]  # needs the weights of the large network
    assert "FAIL" not in found.values()
    assert found["fp16 relative L2"] == "PASS"
