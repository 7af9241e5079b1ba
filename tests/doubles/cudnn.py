"""Torch operators that need a GPU, as formulas on a CPU: cuDNN's, and passes compiled by NVRTC.

Each reports how long it would have taken, so a test decides which one is fastest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from resnext.run.layers import grouped, one_pass

COSTS = {"cudnn": 1.0, "matrix": 2.0, "triton": 3.0, "jitted": 1.0, "conv2d": 4.0}
"""Milliseconds by operator: cuDNN's fused ones are fastest, then products, then the Triton kernel.
"""


def install(
    patch: Callable[[Any, str, Any], None],
    *,
    costs: Mapping[str, float] = COSTS,
    spend: Callable[[float], None] = lambda _: None,
    with_kernel: bool = False,
) -> None:
    """`patch` is setattr, or monkeypatch's."""
    conv2d, addmm_activation = functional.conv2d, torch._addmm_activation

    def fused(x: Tensor, weight: Tensor, around: Tensor | None, bias: Tensor, *how: Any) -> Tensor:
        """Computes in float32, as the kernel accumulates, and rounds once."""
        spend(costs["cudnn"])
        stride, padding, dilation, groups = how
        made = conv2d(x.float(), weight.float(), bias.float(), stride, padding, dilation, groups)
        made = made if around is None else made + around.float()
        return made.relu().to(x.dtype).contiguous(memory_format=torch.channels_last)

    def add_relu(
        x: Tensor, weight: Tensor, around: Tensor, alpha: float, bias: Tensor, *how: Any
    ) -> Tensor:
        assert alpha == 1.0
        return fused(x, weight, around, bias, *how)

    def product(*tensors: Tensor) -> Tensor:
        spend(costs["matrix"])
        return addmm_activation(*tensors)

    def plain(*args: Any, **options: Any) -> Tensor:
        spend(costs["conv2d"])
        return conv2d(*args, **options)

    def create_jit_fn(code: str) -> Callable[..., Tensor]:
        """Returns a function that sums its inputs and applies ReLU."""
        assert re.search(r"template <typename T> T \w+\(", code)

        def run(*tensors: Tensor) -> Tensor:
            assert len(tensors) == code.count("float(")
            spend(costs["jitted"])
            return sum(one.float() for one in tensors).relu().to(tensors[0].dtype)

        return run

    def kernel(x: Tensor, packed: Tensor, bias: Tensor, *, stride: int, groups: int) -> Tensor:
        spend(costs["triton"])
        made = conv2d(x.float(), packed.float(), bias.float(), stride, 1, 1, groups)
        return made.relu().to(x.dtype)

    patch(torch, "cudnn_convolution_relu", lambda x, w, b, *how: fused(x, w, None, b, *how))
    patch(torch, "cudnn_convolution_add_relu", add_relu)
    patch(torch, "_addmm_activation", product)
    patch(functional, "conv2d", plain)
    patch(torch.cuda.jiterator, "_create_jit_fn", create_jit_fn)
    one_pass._jitted.cache_clear()
    module = SimpleNamespace(
        is_supported=lambda _: with_kernel, pack=lambda weight: weight, grouped_conv3x3_relu=kernel
    )
    patch(grouped, "_kernel", lambda: module)
