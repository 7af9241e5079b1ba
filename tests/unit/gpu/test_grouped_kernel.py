"""The grouped convolution in Triton, without a GPU: its results and its machine code.

Triton's interpreter runs it on a CPU. The compiler makes machine code for two kinds of GPU. This
shows the registers, the shared memory, and whether tensor cores multiply, but not the speed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from resnext.run import grouped_kernel
from resnext.run.grouped_kernel import (
    PRECISION,
    TILE,
    TILINGS,
    Plan,
    _Call,
    grouped_conv3x3_relu,
    is_supported,
    pack,
    plans,
)
from tests.doubles.cuda import Cuda
from tests.doubles.triton_interpreter import CASES
from tests.imports import ROOT

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
# Inputs are rounded to 11 bits, and half a step is 2e-4 of a value.
TOLERANCE = {"float16": 1e-3, "float32": 1e-6}


# Results


def interpret(question: str):
    """Asks the double in its own process."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.doubles.triton_interpreter", question],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_kernel_computes_what_torch_computes() -> None:
    errors = interpret("cases")
    assert errors.keys() == CASES.keys()
    wrong = {
        name: error for name, error in errors.items() if not error < TOLERANCE[CASES[name].dtype]
    }
    assert wrong == {}, "relative L2 errors"


def test_each_plan_computes_the_same() -> None:
    for errors in interpret("plans"):
        assert len(set(errors)) == 1
        assert errors[0] < TOLERANCE["float16"]


def test_nan_stays_nan_and_stays_in_its_image() -> None:
    assert interpret("nan") is True


# Machine code


@dataclass(frozen=True)
class Kind:
    capability: int
    shared_bytes: int
    """The most shared memory of a block, on the smallest GPU that runs this code."""
    halves: str
    """The instruction that multiplies half-precision numbers."""


AMPERE = Kind(80, 99 * 1024, "mma.sync.aligned.m16n8k16")  # also runs on 8.6 and 8.9
HOPPER = Kind(90, 227 * 1024, "wgmma.mma_async.sync.aligned.m64n32k16")
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Triton with its own empty cache."""
    triton = pytest.importorskip("triton")
    try:
        for tool in ("ptxas", "ptxas_blackwell", "cuobjdump"):
            getattr(triton.knobs.nvidia, tool)
    except RuntimeError as error:
        pytest.skip(f"this Triton cannot compile here: {error}")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return triton


@pytest.mark.parametrize("kind", [AMPERE, HOPPER], ids=["8.0", "9.0"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "tiling"),
    [(dtype, tiling) for dtype, tilings in TILINGS.items() for tiling in tilings],
    ids=str,
)
def test_the_kernel_compiles_to_tensor_cores_without_spilling(
    kind, stride, dtype, tiling, *, compiler, tmp_path
) -> None:
    made = compile_kernel(compiler, kind, stride, dtype, tiling)
    used = resources(compiler, made, tmp_path)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)
    # A multiprocessor has 65536 registers, which must be enough for at least 8 warps.
    assert 65536 // (used["REG"] * 32 * tiling.warps) * tiling.warps >= 8
    assert made.metadata.shared + used["SHARED"] <= kind.shared_bytes
    wanted = kind.halves if dtype.itemsize == 2 else "mma.sync.aligned.m16n8k8"
    assert wanted in made.asm["ptx"]
    assert ".tf32" in made.asm["ptx"] or dtype.itemsize == 2
    # Stores 16 bytes at once: rows of channels are aligned for all sizes.
    assert "st.global.v4.b32" in made.asm["ptx"]


def compile_kernel(triton, kind, stride, dtype, tiling):
    from triton.backends.compiler import GPUTarget

    from resnext.run.grouped_triton import conv3x3_relu

    constants = {
        "STRIDE": stride, "TILE": TILE, "PIXELS": tiling.pixels, "PRECISION": PRECISION,
    }  # fmt: skip
    signature = dict.fromkeys(conv3x3_relu.arg_names, "i32")
    signature |= dict.fromkeys(("x", "packed", "bias", "made"), f"*{NAMES[dtype]}")
    signature |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(
        fn=conv3x3_relu,
        signature=signature,
        constexprs=constants,
        # torch aligns its memory
        attrs={(number,): [["tt.divisibility", 16]] for number in range(4)},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", kind.capability, 32), options=tiling.options()
    )


def resources(triton, made, folder) -> dict[str, int]:
    """Returns the registers of a thread, and bytes of memory."""
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    shown = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {
        name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", shown)
    }


# Launching


@pytest.mark.parametrize(
    ("images", "channels", "side"),
    [(256, 128, 56), (256, 512, 14), (8, 256, 28), (1, 1024, 7), (1, 128, 56)],
)
def test_a_size_has_few_plans_and_they_cover_it(images, channels, side) -> None:
    found = plans(torch.float16, torch.Size((images, channels, side, side)), 132)
    assert 1 <= len(found) <= 9
    assert {plan.tiling for plan in found} == set(TILINGS[torch.float16])
    assert all(1 <= plan.rows <= side for plan in found)


def test_fewer_images_are_split_into_more_programs() -> None:
    rows = [
        plans(torch.float16, torch.Size((images, 128, 56, 56)), 132)[0].rows
        for images in (256, 64, 8, 1)
    ]
    assert rows == sorted(rows, reverse=True)
    assert (rows[0], rows[-1]) == (56, 1)


class Timed(_Call):
    """A call on a GPU. Each plan takes as many milliseconds as it has rows."""

    launched: list[Plan]

    def launch(self, plan: Plan) -> None:
        self.launched.append(plan)


@pytest.fixture
def timed(monkeypatch):
    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, _) -> float:
            return call.launched[-1].rows

    Cuda().install(monkeypatch.setattr)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(grouped_kernel, "_plans", {})
    shape = torch.Size((256, 128, 56, 56))
    x = SimpleNamespace(device=GPU, dtype=torch.float16, shape=shape)
    call = Timed(x, None, None, x, 1)
    Timed.launched = []
    return call


def test_the_fastest_plan_for_a_size_is_searched_once(timed, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    chosen = timed.choose_plan()
    assert chosen.rows == min(plan.rows for plan in timed.launched)
    assert len(timed.launched) <= 9 * 7
    timed.launched.clear()
    assert timed.choose_plan() == chosen
    assert timed.launched == []


def test_nothing_is_timed_while_a_graph_is_captured(timed, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    timed.choose_plan()
    assert timed.launched == []
    assert grouped_kernel._plans == {}, "a later run may still time it"


# Requirements


@pytest.mark.parametrize(
    ("capability", "missing", "expected"),
    [((9, 0), [], True), ((7, 5), [], False), ((8, 0), ["a C compiler"], False)],
)
def test_the_kernel_needs_a_compiler_and_tensor_cores_that_triton_supports(
    capability, missing, expected, monkeypatch
) -> None:
    pytest.importorskip("triton")
    Cuda(capability=capability).install(monkeypatch.setattr)
    monkeypatch.setattr(grouped_kernel, "missing_for_compiling", lambda _: missing)
    assert is_supported(GPU) is expected


def test_the_kernel_needs_triton(monkeypatch) -> None:
    Cuda().install(monkeypatch.setattr)
    monkeypatch.setattr(grouped_kernel, "missing_for_compiling", lambda _: [])
    monkeypatch.setitem(sys.modules, "resnext.run.grouped_triton", None)
    assert is_supported(GPU) is False


def test_the_kernel_does_not_run_on_a_cpu() -> None:
    assert is_supported(CPU) is False


def test_importing_the_module_loads_no_triton() -> None:
    code = "import sys, resnext.run.grouped_kernel; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Weights


def test_packed_weights_have_the_groups_on_the_diagonal() -> None:
    weight = torch.arange(64 * 4 * 9.0).view(64, 4, 3, 3) + 1
    packed = pack(weight)
    assert packed.shape == (2, 9, 32, 32)
    # Channel 45 is number 13 of the second slice. Its group is 44 to 47, which is 12 to 15 there.
    for place in range(4):
        assert torch.equal(packed[1, :, 12 + place, 13], weight[45, place].flatten())
    assert packed[1, :, :12, 13].eq(0).all()
    assert packed[1, :, 16:, 13].eq(0).all()


@pytest.mark.parametrize("shape", [(48, 12, 3, 3), (2048, 64, 3, 3), (128, 4, 1, 1)])
def test_weights_that_do_not_fit_are_refused(shape) -> None:
    with pytest.raises(ValueError, match="cannot be packed"):
        pack(torch.zeros(shape))


def test_a_call_that_does_not_fit_its_weights_is_refused() -> None:
    packed, bias = pack(torch.zeros(64, 2, 3, 3)), torch.zeros(64)
    for channels, stride, groups in ((128, 1, 32), (64, 3, 32), (64, 1, 1)):
        with pytest.raises(ValueError, match="do not fit"):
            grouped_conv3x3_relu(
                torch.zeros(1, channels, 5, 5), packed, bias, stride=stride, groups=groups
            )
