"""Interprets torch's errors: out of memory, or a device that is broken for good.

After the first, the classifier halves its batches. After the second, a worker ends. torch has a
class for each, but reports many of both only by their text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

# The texts of torch, cuBLAS, cuDNN and Triton on CUDA, then of torch and oneDNN on a CPU. If oneDNN
# cannot create a primitive for another reason, it also fails for a single picture, and that is
# then the error.
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
# CUDA errors that do not outlast the capture of a graph.
_OF_A_CAPTURE: Final = ("captur",)  # "when stream is capturing", "during capture", "captured"
_CUDA: Final = ("CUDA error: ", "CUDA driver error: ")
# The class for them, if this version of torch has it.
_OF_A_DEVICE: Final = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Another error may hide it, from `torch.compile` or a capture."""
    return any(_says_no_memory(one) for one in _with_causes(error))


def is_broken(error: BaseException) -> bool:
    """Whether the device fails on everything from now on, until the process ends.

    Most CUDA errors are persistent. For the few others, this costs a needless restart.
    """
    return not is_out_of_memory(error) and any(_sticks(one) for one in _with_causes(error))


def first_line(error: BaseException) -> str:
    """The first line of its message, or its class if it has none."""
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
    """Yields the error and its causes."""
    seen = set[int]()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
