"""A plain convolution, and one pass over its output for bias, shortcut and ReLU.

NVRTC, which comes with torch, compiles the pass without a C compiler. If torch's interface to it
fails, this kind is left out, and `passes` does the same in more passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final, cast

import torch
from torch import Tensor
from torch.nn import functional

from resnext.run.layers.kind import Run
from resnext.run.layers.shape import ConvShape

# In float32 for any input type. NaN stays NaN, so that a picture that overflows is reported.
_BIAS_RELU: Final = """
template <typename T> T bias_relu(T made, T bias) {
  float sum = float(made) + float(bias);
  return T(sum < 0.0f ? 0.0f : sum);
}
"""
_ADD_BIAS_RELU: Final = """
template <typename T> T add_bias_relu(T made, T around, T bias) {
  float sum = float(made) + float(around) + float(bias);
  return T(sum < 0.0f ? 0.0f : sum);
}
"""


class OnePass:
    name = "one pass"

    def suits(self, shape: ConvShape, device: torch.device) -> bool:  # noqa: ARG002
        return shape.after != "nothing" and is_there()

    def build(self, shape: ConvShape, weight: Tensor, bias: Tensor | None) -> Run:
        assert bias is not None  # noqa: S101  (see `suits`)
        each = _each_channel(bias)

        def run(x: Tensor, around: Tensor | None) -> Tensor:
            made = functional.conv2d(x, weight, None, shape.stride, shape.padding, 1, shape.groups)
            if around is None:
                return _jitted(_BIAS_RELU)(made, each)
            return _jitted(_ADD_BIAS_RELU)(made, around, each)

        return run


def is_there() -> bool:
    """Whether this torch compiles passes with NVRTC. The interface is not public."""
    jiterator = getattr(torch.cuda, "jiterator", None)
    return hasattr(jiterator, "_create_jit_fn")


def bias_relu(made: Tensor, bias: Tensor) -> Tensor:
    """relu(made + bias), (N, C, H, W) and (C,), in one pass if possible, otherwise in two. It may
    overwrite `made`.
    """
    if is_there():
        return _jitted(_BIAS_RELU)(made, _each_channel(bias))
    return made.add_(_each_channel(bias)).relu_()


def _each_channel(bias: Tensor) -> Tensor:
    return bias.view(1, -1, 1, 1)


@cache
def _jitted(code: str) -> Callable[..., Tensor]:
    return cast("Callable[..., Tensor]", torch.cuda.jiterator._create_jit_fn(code))  # noqa: SLF001
