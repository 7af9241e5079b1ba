"""Ways to compute a layer on a GPU: each gives the right values, and the network stays the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from resnext.network import ResNeXt, build_network
from resnext.run.engine import PixelsToLogits, choose_layers, prepare
from resnext.run.layers.check import MARKS, Wrong, check
from resnext.run.layers.choose import Chooser
from resnext.run.layers.cudnn import Cudnn
from resnext.run.layers.kind import Kind
from resnext.run.layers.make import KINDS
from resnext.run.layers.matrix import Matrix
from resnext.run.layers.network import ChosenNetwork, count_shapes
from resnext.run.layers.passes import Passes
from resnext.run.layers.pixels import FivePasses, TwoPasses, choose_normalising
from resnext.run.layers.sample import draw
from resnext.run.layers.shape import ConvShape
from resnext.run.layers.store import Store
from resnext.spec.catalogue import find_spec
from resnext.weights.random import draw_weights
from tests.doubles import cudnn
from tests.doubles.network import SMALL as NETWORK

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SPEC = find_spec("resnext101_32x4d")
SHAPES = count_shapes(build_network(SPEC), SPEC.preprocessing.crop)


@pytest.fixture(autouse=True)
def _operators(monkeypatch) -> None:
    cudnn.install(monkeypatch.setattr, with_kernel=True)


def test_the_network_has_24_shapes_in_its_104_convolutions() -> None:
    assert (len(SHAPES), sum(SHAPES.values())) == (24, 104)
    assert str(list(SHAPES)[17]) == (
        "3x3, 512 to 512 channels, 32 groups, stride 1, 14x14, relu"
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_each_way_gives_the_layers_values(shape: ConvShape, dtype: torch.dtype) -> None:
    sample = draw(shape, 3, dtype, CPU)
    ways = [kind for kind in KINDS if kind.suits(shape, GPU)]
    names = {kind.name for kind in ways}
    assert "passes" in names
    assert ("cudnn" in names, "one pass" in names) == ((shape.after != "nothing",) * 2)
    assert ("cudnn padded" in names) == (shape.in_channels == 3)
    assert ("matrix" in names) == (shape.kernel == 1)
    assert ("triton" in names) == (shape.groups > 1)
    for kind in ways:
        error = check(kind.build(shape, sample.weight, sample.bias), sample)
        assert error < MARKS[dtype] / 4, kind.name


@pytest.mark.parametrize("name", ["cudnn_convolution_relu", "_addmm_activation"])
def test_without_its_operator_in_torch_a_way_is_left_out(name: str, monkeypatch) -> None:
    monkeypatch.delattr(torch, name)
    shape = next(shape for shape in SHAPES if (shape.kernel, shape.after) == (1, "relu"))
    kind = Cudnn() if name.startswith("cudnn") else Matrix()
    assert not kind.suits(shape, GPU)
    assert Passes().suits(shape, GPU)


def test_without_nvrtc_in_torch_adding_and_relu_are_two_passes(monkeypatch) -> None:
    monkeypatch.delattr(torch.cuda.jiterator, "_create_jit_fn")
    shape = next(shape for shape in SHAPES if shape.after == "add_relu")
    assert [kind.name for kind in KINDS if kind.suits(shape, GPU)] == ["cudnn", "matrix", "passes"]
    sample = draw(shape, 2, torch.float16, CPU)
    assert check(Matrix().build(shape, sample.weight, sample.bias), sample) < 1e-3


# Mistakes

SMALL = ConvShape(
    kernel=3, in_channels=8, out_channels=8, groups=2, stride=1, padding=1, side=6, after="relu"
)  # fmt: skip


def _wrong_at_the_edge(made: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    made[-1, :, -1, -1] = 0
    return made


def _reads_its_memory(made: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Acts like a kernel that adds zero times the previous content of its output."""
    before = torch.empty_like(made)
    before.fill_(torch.nan)
    return made + 0 * before


WRONGS = {
    "a little": (lambda made, _: made * 1.003, "relative error"),
    "the last picture": (_wrong_at_the_edge, "relative error"),
    "its memory": (_reads_its_memory, "relative error is nan"),
    "cut": (lambda made, _: made.nan_to_num(0), "turns NaN into numbers"),
    "spoilt": (lambda made, x: made + 0 * x[:1].sum(), "changes another picture"),
    "shape": (lambda made, _: made[:, :4], r"its output is \(3, 4, 6, 6\)"),
    "type": (lambda made, _: made.float(), "float32"),
}


@pytest.mark.parametrize(("change", "words"), WRONGS.values(), ids=WRONGS)
def test_every_mistake_is_noticed(change, words) -> None:
    sample = draw(SMALL, 3, torch.float16, CPU)
    right = Passes().build(SMALL, sample.weight, sample.bias)
    assert check(right, sample) < 1e-3
    with pytest.raises(Wrong, match=words):
        check(lambda x, around: change(right(x, around), x), sample)


# The whole network


class NoTimer:
    """All ways take the same time, so the first suitable one is taken."""

    def seconds(self, run) -> float:
        return 1.0

    def wait(self) -> None: ...


def choose_first(module: PixelsToLogits, crop: int, dtype: torch.dtype, *kinds: Kind) -> nn.Module:
    def make(shapes: dict[ConvShape, int]) -> Chooser:
        return Chooser(
            shapes, dtype=dtype, device=CPU, kinds=kinds, timer=NoTimer(), store=Store(None, {})
        )

    normalise = choose_normalising(module.mean, module.std, dtype)
    return ChosenNetwork(module.network, normalise, crop, make)


def folded(precision: str) -> PixelsToLogits:
    network = build_network(NETWORK)
    draw_weights(network, NETWORK)
    return prepare(network, NETWORK.preprocessing, CPU, precision)


@pytest.fixture(scope="module")
def modules() -> dict[str, PixelsToLogits]:
    return {precision: folded(precision) for precision in ("fp16", "fp32")}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("precision", "mark"), [("fp16", 0.01), ("fp32", 1e-5)])
def test_the_network_gives_the_same_however_its_layers_are_computed(
    kind, precision, mark, modules
) -> None:
    plain = modules[precision]
    chosen = choose_first(plain, 16, plain.dtype, kind, Passes())
    for images in (1, 3):
        pixels = torch.randint(0, 256, (images, 16, 16, 3)).byte()
        with torch.inference_mode():
            expected, found = plain(pixels), chosen(pixels)
            again = chosen(pixels)
        assert ((found - expected).norm() / expected.norm()).item() < mark
        assert torch.equal(found, again), "a run leaves nothing behind"
        assert found.dtype == torch.float32


def test_a_network_with_the_stem_of_imagenet_gives_the_same() -> None:
    """One block per stage, on small pictures: a stem with a pool, and strides."""
    spec = dataclasses.replace(find_spec("resnext50_32x4d"), depths=(1, 1, 1, 1))
    network = build_network(spec)
    network.to_empty(device=CPU)
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        if tensor.dtype == torch.float32:
            tensor.uniform_(0.02, 0.04, generator=generator)
    plain = prepare(network, spec.preprocessing, CPU, "fp32")
    chosen = choose_first(plain, 64, torch.float32, *KINDS)
    pixels = torch.randint(0, 256, (2, 64, 64, 3)).byte()
    with torch.inference_mode():
        expected, found = plain(pixels), chosen(pixels)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


class TooBright(nn.Module):
    """Makes the second picture so bright that fp16 overflows."""

    def __init__(self, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.normalise(pixels) * torch.tensor([1, 3e4, 1]).half().view(3, 1, 1, 1)


def test_a_picture_that_overflows_fails_alone(modules) -> None:
    chosen = choose_first(modules["fp16"], 16, torch.float16, *KINDS)
    chosen.normalise = TooBright(chosen.normalise)
    with torch.inference_mode():
        logits = chosen(torch.full((3, 16, 16, 3), 255).byte())
    assert logits.isfinite().all(dim=1).tolist() == [True, False, True]


# Pixels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_two_passes_over_pixels_equal_five_to_the_bit(dtype) -> None:
    wanted = SPEC.preprocessing
    mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
    chosen = choose_normalising(mean, std, dtype)
    assert isinstance(chosen, TwoPasses)
    pixels = torch.randint(0, 256, (2, 5, 5, 3)).byte()
    expected = FivePasses(mean, std, dtype)(pixels)
    found = chosen(pixels)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fault", ["other bits", "not implemented"])
def test_five_passes_are_taken_if_two_do_not_give_the_same(fault, monkeypatch, caplog) -> None:
    addcdiv = torch.addcdiv

    def other(*tensors: torch.Tensor) -> torch.Tensor:
        if fault == "not implemented":
            raise RuntimeError('"addcdiv" not implemented')
        return addcdiv(*tensors) * (1 + 1e-7)

    monkeypatch.setattr(torch, "addcdiv", other)
    mean, std = torch.tensor(SPEC.preprocessing.mean), torch.tensor(SPEC.preprocessing.std)
    assert type(choose_normalising(mean, std, torch.float32)) is FivePasses
    assert "five passes instead of two" in caplog.text


def test_choosing_leaves_the_module_unchanged(modules, monkeypatch) -> None:
    """The compiled network is made from it, too."""
    plain = modules["fp32"]
    before = {name: type(part) for name, part in plain.named_modules()}
    monkeypatch.setattr("resnext.run.engine.make_chooser", lambda shapes, **_: shapes)
    chosen = choose_layers(plain, NETWORK.preprocessing, GPU, "fp32", name="small", cache=None)
    assert {name: type(part) for name, part in plain.named_modules()} == before
    assert isinstance(plain.network, ResNeXt)
    assert chosen.stem.weight is plain.network.conv1.weight
