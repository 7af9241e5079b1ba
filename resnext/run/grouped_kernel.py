"""The grouped 3x3 convolution of a block on a GPU, with its bias and ReLU, in one Triton kernel.

A group has 4 to 32 channels, which is too few for tensor cores. So 32 channels make one product:
their groups are on its diagonal, and its other weights are zero. For the widths of a
ResNeXt101-32x4d:

| width | groups in a product | multiply-adds by zero |
|---|---|---|
| 128 | 8 | 88% |
| 256 | 4 | 75% |
| 512 | 2 | 50% |
| 1024 | 1 | none |

By calculation, tensor cores have time for this while they wait for memory; see docs/classifier.md.
This is not measured on a GPU yet.

Importing this needs neither Triton nor a GPU. `resnext.run.grouped_triton` has the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from resnext.run.compiler import missing_for_compiling
from resnext.run.gpu import is_for_triton

TILE: Final = 32
"""The input and output channels of a product."""


@dataclass(frozen=True)
class Tiling:
    """The options with which a program is compiled."""

    pixels: int
    """Columns of a program. The columns of all images are side by side."""
    warps: int
    stages: int
    """With 1, an input row is loaded when it is needed, through the L1 cache. With more, `stages -
    1` rows are loaded ahead, past the L1 cache.
    """

    def options(self) -> dict[str, int | bool]:
        """The options for Triton's compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Plan:
    """How the kernel is launched for a size. All plans add in the same order."""

    tiling: Tiling
    rows: int
    """Output rows of a program."""


# None of these spills registers, and each fits into the shared memory of every GPU with capability
# 8.0 or newer (tests/unit/gpu/test_grouped_kernel.py). The fastest is found by timing each size.
_OF_HALVES: Final = (Tiling(64, 4, 3), Tiling(64, 4, 1), Tiling(128, 8, 2))
TILINGS: Final = {
    torch.float16: _OF_HALVES,
    torch.bfloat16: _OF_HALVES,
    torch.float32: (Tiling(16, 4, 1),),
}
# For float32: three TF32 products instead of one, which is nearly exact. Other types ignore it.
PRECISION: Final = "tf32x3"
# Programs per multiprocessor, of which 1 to 5 run at once. More programs divide the work more
# evenly. Fewer programs read fewer rows twice.
_PROGRAMS: Final = (4, 8, 16)
# If there is no GPU, as in Triton's interpreter.
_MULTIPROCESSORS_OF_NONE: Final = 1
_TIMINGS: Final = 3
_LAUNCHES: Final = 2

_plans: dict[tuple[object, ...], Plan] = {}
"""The fastest plan of each size that this process has timed."""


def is_supported(device: torch.device) -> bool:
    """Whether this machine can compile the kernel for this device."""
    if device.type != "cuda" or not is_for_triton(device) or missing_for_compiling("cuda"):
        return False
    try:
        import resnext.run.grouped_triton  # noqa: F401, PLC0415  (not every machine has Triton)
    except ImportError:
        return False
    return True


def pack(weight: Tensor) -> Tensor:
    """Packs the weights of a layer, once: (C, C / groups, 3, 3) → (C / 32, 9, 32 in, 32 out).

    Raises:
        ValueError: groups of this size do not fill 32 channels.
    """
    channels, group, *size = weight.shape
    if size != [3, 3] or channels % TILE or TILE % group:
        raise ValueError(
            f"Weights of shape {tuple(weight.shape)} cannot be packed. The kernel needs 3x3 "
            f"weights, a multiple of {TILE} channels, and groups whose size divides {TILE}."
        )
    slices, groups = channels // TILE, TILE // group
    packed = weight.new_zeros(slices, 9, groups, group, groups, group)
    taps = weight.reshape(slices, groups, group, group, 9)  # slice, group, out, in, tap
    packed.diagonal(dim1=2, dim2=4).copy_(taps.permute(0, 4, 3, 2, 1))
    return packed.view(slices, 9, TILE, TILE)


def grouped_conv3x3_relu(
    x: Tensor, packed: Tensor, bias: Tensor, *, stride: int, groups: int
) -> Tensor:
    """relu(conv(x) + bias), padded by 1, summed in float32.

    x (N, C, H, W), packed from `pack`, bias (C,) → (N, C, ⌈H / stride⌉, ⌈W / stride⌉), in
    channels_last and of x's dtype: float16, bfloat16 or float32. The stride is 1 or 2.

    The first call with a size times each plan, unless a CUDA graph is being captured. If a value
    in `x` is infinite, all 32 channels of its product become NaN.

    Raises:
        ValueError: the weights are packed for other channels, or the stride is not 1 or 2.
    """
    images, channels, height, width = x.shape
    if channels != len(packed) * TILE or TILE % (channels // groups) or stride not in {1, 2}:
        raise ValueError(
            f"{channels} channels in {groups} groups with stride {stride} do not fit weights of "
            f"{len(packed) * TILE} channels, groups whose size divides {TILE}, and stride 1 or 2."
        )
    x = x.contiguous(memory_format=torch.channels_last)
    made = torch.empty(
        (images, channels, -(-height // stride), -(-width // stride)),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    call = _Call(x, packed, bias, made, stride)
    with torch.cuda.device_of(x):
        call.launch(call.choose_plan())
    return made


@dataclass(frozen=True)
class _Call:
    x: Tensor
    packed: Tensor
    bias: Tensor
    made: Tensor
    stride: int

    def launch(self, plan: Plan) -> None:
        from resnext.run.grouped_triton import conv3x3_relu  # noqa: PLC0415  (see the top)

        images, _, height, width = self.x.shape
        _, _, out_height, out_width = self.made.shape
        slices = len(self.packed)
        blocks = -(-images * out_width // plan.tiling.pixels)
        conv3x3_relu[(blocks * slices, -(-out_height // plan.rows))](
            self.x,
            self.packed,
            self.bias,
            self.made,
            images,
            height,
            width,
            out_height,
            out_width,
            slices,
            plan.rows,
            STRIDE=self.stride,
            TILE=TILE,
            PIXELS=plan.tiling.pixels,
            PRECISION=PRECISION,
            **plan.tiling.options(),
        )

    def choose_plan(self) -> Plan:
        device = self.x.device
        if device.type != "cuda":
            return plans(self.x.dtype, self.made.shape, _MULTIPROCESSORS_OF_NONE)[0]
        size = (device, self.x.dtype, self.x.shape, self.stride)
        if size not in _plans:
            count = torch.cuda.get_device_properties(device).multi_processor_count
            found = plans(self.x.dtype, self.made.shape, count)
            if torch.cuda.is_current_stream_capturing():
                return found[0]
            _plans[size] = min(found, key=self._time)
        return _plans[size]

    def _time(self, plan: Plan) -> float:
        """The shortest time of some tries in milliseconds, after a first try that compiles."""
        self.launch(plan)
        return min(self._time_once(plan) for _ in range(_TIMINGS))

    def _time_once(self, plan: Plan) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_LAUNCHES):
            self.launch(plan)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def plans(dtype: torch.dtype, out_shape: torch.Size, multiprocessors: int) -> list[Plan]:
    """The plans to time for an output of shape (N, C, H, W)."""
    images, channels, height, width = out_shape
    found = []
    for tiling in TILINGS[dtype]:
        programs = -(-images * width // tiling.pixels) * (channels // TILE)
        for wanted in _PROGRAMS:
            parts = min(max(1, round(wanted * multiprocessors / programs)), height)
            found.append(Plan(tiling, -(-height // parts)))
    return list(dict.fromkeys(found))
