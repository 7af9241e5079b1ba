"""Makes cuDNN choose the plan for a convolution by trying all plans.

The runner uses it for a classifier's batches, and `resnext.run.layers` for its candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def timing_every_plan() -> Iterator[None]:
    """Lets cuDNN try all plans when a size first arrives. Sizes are few and fixed.

    Other uses of cuDNN in this process are not affected.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before
