"""Checks whether a way to compute a layer is right.

`choose` calls this before it times a way. A kernel that is nearly right is worse than a slow one.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from resnext.run.layers.kind import Run
from resnext.run.layers.sample import Sample

MARKS: Final = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4}
"""The largest permitted relative L2 error. Rounding each output once gives a tenth of it."""
_AT_ONCE: Final = 16
"""This many pictures are compared in float32 at once, so a large batch needs little memory."""


class Wrong(Exception):
    """A candidate's result is wrong. The message says how."""


def check(run: Run, sample: Sample) -> float:
    """Returns the relative L2 error of the worst picture.

    Raises:
        Wrong: the error is too large, NaN is lost, or NaN reaches another picture.
    """
    error = _error(_run(run, sample, sample.x), sample.expected, first=0)
    mark = MARKS[sample.x.dtype]
    if not error <= mark:  # it may be NaN
        raise Wrong(f"wrong: its relative error is {error:.1e}, more than {mark:.1e}")
    _check_nan(run, sample)
    return error


def _check_nan(run: Run, sample: Sample) -> None:
    """Checks that NaN stays NaN and in its picture: a picture that overflows must fail alone."""
    x = sample.x.clone()
    x[0] = torch.nan
    made = _run(run, sample, x)
    if made[0].isfinite().any():
        raise Wrong("wrong: it turns NaN into numbers")
    if len(x) > 1 and not _error(made[1:], sample.expected, first=1) <= MARKS[x.dtype]:
        raise Wrong("wrong: NaN in one picture changes another picture")


def _run(run: Run, sample: Sample, x: Tensor) -> Tensor:
    """Runs a candidate in memory full of NaN, if the allocator reuses it. So a kernel that reads
    its own output fails the check.
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
        raise Wrong(f"wrong: its output is {tuple(made.shape)} {made.dtype}")
    return made


def _error(made: Tensor, expected: Tensor, *, first: int) -> float:
    """The relative error of the worst picture. `made` starts with the batch's picture `first`."""
    lengths = torch.linalg.vector_norm(expected.flatten(1), dim=1)
    worst = torch.zeros((), device=made.device)
    for begin in range(0, len(made), _AT_ONCE):
        some = made[begin : begin + _AT_ONCE]
        pattern = (torch.arange(len(some), device=made.device) + first + begin) % len(expected)
        apart = (some.float() - expected[pattern]).flatten(1)
        errors = torch.linalg.vector_norm(apart, dim=1) / lengths[pattern]
        worst = torch.maximum(worst, errors.max())  # NaN if any is NaN
    return worst.item()
