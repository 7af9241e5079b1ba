"""How cuDNN chooses the plan for a convolution: by trying all that it can do.

The runner has it on for the batches of a classifier, and the choice of layers for its candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def timing_every_plan() -> Iterator[None]:
    """Lets cuDNN try all that it can do for a size, when it first comes: sizes are few and fixed.

    What else this process does with cuDNN keeps its own choice.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before
