"""Choices that depend on a GPU's size and generation: batches, and whether compiling pays.

The classifier and the engine ask when a classifier is loaded. None of these limits has been
measured on a GPU yet. Their sources are given.
"""

from __future__ import annotations

from typing import Final

import torch

BATCH_IMAGES: Final = 32
"""For a CPU and a small GPU."""
# The least bytes of memory, and the images in a batch. By counting activations, a batch of 256
# takes some 2.5 GB in fp16, and several workers may share a GPU.
_BATCHES: Final = ((40 * 2**30, 256), (20 * 2**30, 128), (8 * 2**30, 64))
# The oldest capability that Triton supports (triton-lang/triton, pull request 5066). Turing, such
# as the T4, is older.
TRITON_CAPABILITY: Final = (8, 0)
# With fewer multiprocessors torch does not tune matrix products (torch/_inductor/utils.py,
# `is_big_gpu`).
_TUNING_MULTIPROCESSORS: Final = 68


def choose_batch_images(device: torch.device) -> int:
    """Chooses the most images in a batch by the device's memory."""
    if device.type != "cuda":
        return BATCH_IMAGES
    memory = torch.cuda.get_device_properties(device).total_memory
    return next((images for least, images in _BATCHES if memory >= least), BATCH_IMAGES)


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes by kind: `allocated` to tensors, `reserved` by this process, `total` of the GPU. Empty
    for a CPU. It uses torch's own counts, because the driver may hang with its device.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def is_for_triton(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= TRITON_CAPABILITY


def is_worth_tuning(device: torch.device) -> bool:
    """Whether torch tunes convolutions and products for this GPU. Tuned ones include the operations
    that follow them; otherwise each of these is a separate pass.
    """
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count >= _TUNING_MULTIPROCESSORS and is_for_triton(device)
