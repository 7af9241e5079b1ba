"""What an error of torch means: the memory is too small, or the device is broken for good.

The classifier halves its batches after the first, and a worker ends after the second. torch has
a class for each of them, and reports many of both by words alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

# What torch, cuBLAS, cuDNN and Triton say on CUDA; then what torch and oneDNN say on a CPU. A
# primitive of oneDNN that cannot be created for another reason cannot be for a single picture
# either, and that is then the error.
_NO_MEMORY: Final = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "[CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",
    "could not execute a primitive",
)
# Errors of CUDA that end with the graph that was being captured.
_OF_A_CAPTURE: Final = ("captur",)  # "when stream is capturing", "during capture", "captured"
_CUDA: Final = ("CUDA error: ", "CUDA driver error: ")
# Where this version of torch has a class for them.
_OF_A_DEVICE: Final = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()


def is_out_of_memory(error: BaseException) -> bool:
    """Also where another error hides it: of `torch.compile`, or of the end of a capture."""
    return any(_says_no_memory(one) for one in _with_causes(error))


def is_broken(error: BaseException) -> bool:
    """Whether the device fails on everything from now on, until the process ends.

    CUDA's errors stick, but for a few. One that does not costs a restart of the process here.
    """
    return not is_out_of_memory(error) and any(_sticks(one) for one in _with_causes(error))


def first_line(error: BaseException) -> str:
    """Of its message; its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _says_no_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def _sticks(error: BaseException) -> bool:
    of_cuda = isinstance(error, _OF_A_DEVICE) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _CUDA)
    )
    return of_cuda and not any(words in str(error) for words in _OF_A_CAPTURE)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    seen = set[int]()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
