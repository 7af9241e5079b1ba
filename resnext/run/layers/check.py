"""Whether a way of computing a layer is right.

`choose` asks before it times one. A kernel that is nearly right is worse than a slow one.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from resnext.run.layers.kind import Run
from resnext.run.layers.sample import Sample

MARKS: Final = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4}
"""The largest relative L2 error. Rounding each output once gives a tenth of it."""
_AT_ONCE: Final = 16
"""Pictures that are compared in float32, so that a large batch needs little more memory."""


class Wrong(Exception):
    """What a candidate makes is not what it should be; the message says how."""


def check(run: Run, sample: Sample) -> float:
    """The relative L2 error of the worst picture.

    Raises:
        Wrong: it is too large, or NaN is lost or spoils another picture.
    """
    error = _error(_run(run, sample, sample.x), sample.expected, first=0)
    mark = MARKS[sample.x.dtype]
    if not error <= mark:  # it may be NaN
        raise Wrong(f"wrong: its relative error is {error:.1e}, more than {mark:.1e}")
    _check_nan(run, sample)
    return error


def _check_nan(run: Run, sample: Sample) -> None:
    """A picture that overflows fails alone, and is told so: its NaN must stay NaN, and its own."""
    x = sample.x.clone()
    x[0] = torch.nan
    made = _run(run, sample, x)
    if made[0].isfinite().any():
        raise Wrong("wrong: it turns NaN into numbers")
    if len(x) > 1 and not _error(made[1:], sample.expected, first=1) <= MARKS[x.dtype]:
        raise Wrong("wrong: NaN in one picture spoils another")


def _run(run: Run, sample: Sample, x: Tensor) -> Tensor:
    """In memory full of NaN, as far as the allocator gives it again: a kernel that reads its own
    output shows.
    """
    shape = (len(x), *sample.expected.shape[1:])
    poison = torch.empty(
        shape,
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    ).fill_(torch.nan)
    around = None if sample.around is None else sample.around.clone()
    del poison
    made = run(x, around)
    if made.shape != shape or made.dtype != x.dtype:
        raise Wrong(f"wrong: it makes {tuple(made.shape)} {made.dtype}")
    return made


def _error(made: Tensor, expected: Tensor, *, first: int) -> float:
    """Of the worst picture. The first of `made` is the batch's number `first`."""
    lengths = torch.linalg.vector_norm(expected.flatten(1), dim=1)
    worst = torch.zeros((), device=made.device)
    for begin in range(0, len(made), _AT_ONCE):
        some = made[begin : begin + _AT_ONCE]
        pattern = (torch.arange(len(some), device=made.device) + first + begin) % len(expected)
        apart = (some.float() - expected[pattern]).flatten(1)
        errors = torch.linalg.vector_norm(apart, dim=1) / lengths[pattern]
        worst = torch.maximum(worst, errors.max())  # NaN where one is NaN
    return worst.item()
