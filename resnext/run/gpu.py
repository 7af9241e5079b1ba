"""What follows from how large and how new a GPU is: batches, and whether compiling pays.

The classifier and the engine ask when a classifier is loaded. None of these marks has been
measured on a GPU yet; their sources are given.
"""

from __future__ import annotations

from typing import Final

import torch

BATCH_IMAGES: Final = 32
"""On a CPU, and where a GPU is small."""
# From so many bytes of memory on, so many images. A batch of 256 takes some 2.5 GB in fp16 by
# counting its activations, and several workers may share a GPU.
_BATCHES: Final = ((40 * 2**30, 256), (20 * 2**30, 128), (8 * 2**30, 64))
# Triton supports this and newer ones (triton-lang/triton, pull request 5066): Turing, as the T4,
# is older.
TRITON_CAPABILITY: Final = (8, 0)
# With fewer multiprocessors torch does not tune matrix products (torch/_inductor/utils.py,
# `is_big_gpu`).
_TUNING_MULTIPROCESSORS: Final = 68


def choose_batch_images(device: torch.device) -> int:
    """The most images of a batch where nobody has chosen: by the device's memory."""
    if device.type != "cuda":
        return BATCH_IMAGES
    memory = torch.cuda.get_device_properties(device).total_memory
    return next((images for least, images in _BATCHES if memory >= least), BATCH_IMAGES)


def is_for_triton(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= TRITON_CAPABILITY


def is_worth_tuning(device: torch.device) -> bool:
    """Whether torch tunes convolutions and products for it, so that they take along what follows
    them instead of leaving each to a pass of its own.
    """
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count >= _TUNING_MULTIPROCESSORS and is_for_triton(device)
