"""A classifier on a GPU that chooses how to compute its layers: during the warm-up, never later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext import load_classifier
from resnext.classifier import Classifier
from resnext.errors import DeviceBroken
from resnext.run import engine
from resnext.run.layers.fastest import Fastest
from resnext.run.layers.network import ChosenNetwork
from tests.doubles import cudnn
from tests.doubles.cuda import NO_MEMORY, STICKY, Cuda, lanes_of
from tests.doubles.network import SMALL


@pytest.fixture
def cuda(monkeypatch) -> Iterator[Cuda]:
    """A GPU on a machine without a compiler."""
    cuda = Cuda()
    cuda.install(monkeypatch.setattr)
    cudnn.install(monkeypatch.setattr, spend=cuda.spend)
    monkeypatch.setattr("resnext.classifier.find_spec", lambda _: SMALL)
    monkeypatch.setattr("resnext.run.nvml.LIBRARY", "there-is-none.so")
    monkeypatch.setattr("resnext.run.layers.timer._RUNS", 1)
    monkeypatch.setattr("resnext.run.layers.timer.RUNS_BEFORE_CAPTURE", 1)
    monkeypatch.setattr(engine, "missing_for_compiling", lambda _: ["a C compiler"])
    yield cuda
    cuda.goes_on.set()


def load(cache: Path, batch_images: int = 4, **options) -> Classifier:
    return load_classifier(
        "small", "random", device="cuda", cache=cache, batch_images=batch_images, **options
    )


def exact() -> Classifier:
    """Loads the same network on a CPU, in float32."""
    return load_classifier("small", "random", device="cpu", precision="fp32")


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 16, 16, 3), np.uint8)


def ways(classifier: Classifier, images: int) -> set[tuple[str, str]]:
    return {
        (one.shape.after, one.chosen.name)
        for one in classifier.layer_choices(images)
        if one.shape is not None and one.chosen is not None
    }


def timed(cuda: Cuda) -> int:
    """Returns how many events measured time."""
    return sum(options == {"enable_timing": True} for options in cuda.events)


def test_the_warm_up_chooses_for_each_size_and_nothing_is_measured_or_captured_later(
    cuda, tmp_path: Path
) -> None:
    classifier = load(tmp_path)
    assert classifier.engine == "eager"
    classifier.warm_up()
    assert lanes_of(classifier) == [[1, 2, 4]] * 2
    for images in (1, 2, 4):
        assert ways(classifier, images) == {
            ("relu", "cudnn"),
            ("add_relu", "cudnn"),
            ("nothing", "matrix"),
        }
    captures, times = len(cuda.captures), timed(cuda)
    assert times > 0
    images = pictures(4)
    expected = exact().classify(images)
    for n in (4, 3, 1, 2):
        found = classifier.classify(images[:n])
        np.testing.assert_allclose(found.scores, expected.scores[:n], atol=0.01)
    assert (len(cuda.captures), timed(cuda)) == (captures, times)


def test_the_next_start_measures_nothing(cuda, tmp_path: Path) -> None:
    load(tmp_path).warm_up()
    times = timed(cuda)
    again = load(tmp_path)
    again.warm_up()
    assert timed(cuda) == times
    assert lanes_of(again) == [[1, 2, 4]] * 2
    load(tmp_path, precision="fp32").warm_up()
    assert timed(cuda) > times


def test_the_fastest_way_on_this_machine_is_taken(cuda, tmp_path: Path, monkeypatch) -> None:
    costs = cudnn.COSTS | {"cudnn": 9.0, "triton": 1.0, "matrix": 1.5}
    cudnn.install(monkeypatch.setattr, costs=costs, spend=cuda.spend, with_kernel=True)
    classifier = load(tmp_path, 1)
    classifier.warm_up()
    choices = {str(one.shape): one.chosen for one in classifier.layer_choices(1)}
    for shape, chosen in choices.items():
        assert chosen is not None
        if "groups" in shape:
            assert chosen.name == "triton"
        elif "1x1" in shape and "add" not in shape:
            assert chosen.name in {"matrix", "passes"}  # without ReLU, both are the same operator
    assert classifier.classify(pictures(1)).finite.all()


def test_without_a_warm_up_the_choice_is_made_when_a_size_first_comes(cuda, tmp_path: Path) -> None:
    classifier = load(tmp_path)
    assert classifier.classify(pictures(2)).finite.all()
    assert lanes_of(classifier) == [[2], []]
    assert {one.images for one in classifier.layer_choices(2)} == {2}


def test_a_size_that_does_not_fit_is_halved_during_the_choice(
    cuda, tmp_path: Path, monkeypatch, caplog
) -> None:
    classifier = load(tmp_path)
    conv2d = torch.nn.functional.conv2d

    def cramped(x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return conv2d(x, *args, **options)

    for name in ("cudnn_convolution_relu", "cudnn_convolution_add_relu", "mm", "_addmm_activation"):
        monkeypatch.setattr(torch, name, cramped)
    monkeypatch.setattr(torch.nn.functional, "conv2d", cramped)
    classifier.warm_up()
    assert lanes_of(classifier) == [[1, 2]] * 2
    assert caplog.text.count("do not fit into the memory of cuda:0") == 1


@pytest.mark.parametrize("during", ["the check", "a capture"])
def test_a_device_that_breaks_during_the_choice_ends_the_worker(
    cuda, tmp_path: Path, monkeypatch, during
) -> None:
    def break_down(*_: object) -> torch.Tensor:
        if during == "the check" or cuda.capturing is not None:
            cuda.break_down(STICKY)
            raise torch.AcceleratorError(STICKY)
        return torch.zeros(())

    monkeypatch.setattr(torch, "cudnn_convolution_relu", break_down)
    if during == "a capture":
        monkeypatch.setattr("resnext.run.layers.choose.check", lambda *_: 0.0)
    with pytest.raises(DeviceBroken, match="device-side assert"):
        load(tmp_path).warm_up()


def test_on_a_cpu_nothing_is_chosen(cuda) -> None:
    assert exact().layer_choices(1) == []


# Beside the compiled network


Compile = Callable[[torch.nn.Module, torch.device], Callable[[torch.Tensor], torch.Tensor]]


@pytest.fixture
def compiling(cuda, monkeypatch) -> Callable[..., list[int]]:
    """Makes compiling possible.

    The compiled network takes `cost_ms` per batch. Returns a list of the sizes that it ran.
    """
    monkeypatch.setattr(engine, "missing_for_compiling", lambda _: [])

    def install(cost_ms: float, change: Callable[[torch.Tensor], torch.Tensor] | None = None):
        sizes: list[int] = []

        def compile_(module: torch.nn.Module, _: torch.device):
            def forward(pixels: torch.Tensor) -> torch.Tensor:
                if len(pixels) not in sizes:
                    sizes.append(len(pixels))
                before = cuda.clock_ms, getattr(cuda.capturing, "milliseconds", 0.0)
                made = module(pixels)
                cuda.clock_ms = before[0]
                if cuda.capturing is not None:
                    cuda.capturing.milliseconds = before[1]
                cuda.spend(cost_ms)
                return made if change is None else change(made)

            return forward

        monkeypatch.setattr("resnext.classifier.compile_module", compile_)
        return sizes

    return install


def network_choice(classifier: Classifier, images: int) -> str | None:
    last = classifier.layer_choices(images)[-1]
    return None if last.shape is not None or last.chosen is None else last.chosen.name


@pytest.mark.parametrize(("cost_ms", "chosen"), [(0.5, "compiled"), (1e6, "layers")])
def test_the_faster_of_compiled_network_and_layers_computes(
    cuda, compiling, tmp_path: Path, cost_ms, chosen
) -> None:
    sizes = compiling(cost_ms)
    classifier = load(tmp_path)
    classifier.warm_up()
    assert classifier.engine == "fastest"
    assert sizes == [4, 1], "by fours"
    assert [network_choice(classifier, n) for n in (1, 2, 4)] == [chosen, None, chosen]
    assert lanes_of(classifier) == [[1, 2, 4]] * 2
    captures, times = len(cuda.captures), timed(cuda)
    images = pictures(4)
    found, expected = classifier.classify(images), exact().classify(images)
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.01)
    assert (len(cuda.captures), timed(cuda)) == (captures, times)


def test_the_next_start_compiles_only_what_was_faster(cuda, compiling, tmp_path: Path) -> None:
    compiling(1e6)
    load(tmp_path).warm_up()
    times = timed(cuda)
    sizes = compiling(1e6)
    load(tmp_path).warm_up()
    assert (sizes, timed(cuda)) == ([], times)


def test_a_compiled_network_that_is_wrong_is_left_out(
    cuda, compiling, tmp_path: Path, caplog
) -> None:
    compiling(0.5, lambda logits: logits.roll(1, dims=1))
    classifier = load(tmp_path)
    classifier.warm_up()
    assert network_choice(classifier, 4) == "layers"
    assert "The compiled network is left out: wrong" in caplog.text
    assert classifier.classify(pictures(2)).finite.all()


def test_a_network_that_fails_to_compile_runs_layer_by_layer(
    cuda, tmp_path: Path, compiling, monkeypatch, caplog
) -> None:
    def fail(*_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.")

        return forward

    monkeypatch.setattr("resnext.classifier.compile_module", fail)
    classifier = load(tmp_path)
    classifier.warm_up()
    assert caplog.text.count("cannot be compiled here and runs uncompiled: Failed to find") == 1
    assert lanes_of(classifier) == [[1, 2, 4]] * 2
    assert classifier.classify(pictures(3)).finite.all()


def test_a_device_that_breaks_while_compiling_ends_the_worker(
    cuda, compiling, tmp_path: Path, caplog
) -> None:
    def break_down(_: torch.Tensor) -> torch.Tensor:
        cuda.break_down(STICKY)
        raise torch.AcceleratorError(STICKY)

    compiling(0.5, break_down)
    with pytest.raises(DeviceBroken):
        load(tmp_path).warm_up()
    assert "cannot be compiled" not in caplog.text


def test_each_engine_does_what_its_name_says(cuda, compiling, tmp_path: Path) -> None:
    compiling(0.5)
    eager = load(tmp_path, engine="eager")
    compiled = load(tmp_path, engine="compiled")
    assert isinstance(eager._module, ChosenNetwork)
    assert not isinstance(compiled._module, ChosenNetwork | Fastest)
    assert (eager._buckets, compiled._buckets) == ([1, 2, 4], [1, 4])
    assert compiled.layer_choices(4) == []
