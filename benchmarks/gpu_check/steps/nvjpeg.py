"""Step 7: compares NVIDIA's JPEG decoder, used through torchvision, with Pillow.

The project does not use this decoder; the step shows whether it would be worth it. Its pixels
differ slightly from Pillow's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_check import network
from benchmarks.gpu_check.report import NotHereError, Report
from benchmarks.gpu_check.step import Given
from benchmarks.gpu_check.timing import Calling, images_per_s
from benchmarks.model.contenders import MODEL
from resnext.picture.preprocess import resize_and_crop, to_rgb
from resnext.spec.catalogue import find_spec

_BATCH: Final = 64


def check(given: Given, report: Report) -> None:
    bodies = [_bytes(file.read_bytes()) for file in network.photograph_files()]
    decoded = _decode(bodies)
    many = [bodies[k % len(bodies)] for k in range(_BATCH)]
    report.note("decoded", images_per_s(Calling(lambda: _decode(many)), _BATCH), "images/s")
    pillow = [to_rgb(Image.open(file)) for file in network.photograph_files()]
    theirs = [Image.fromarray(one.permute(1, 2, 0).cpu().numpy()) for one in decoded]
    apart = [
        np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16))
        for a, b in zip(pillow, theirs, strict=True)
    ]
    mean = float(np.mean([one.mean() for one in apart]))
    report.note("mean difference to Pillow", mean, "of 255")
    report.note("largest difference to Pillow", max(int(one.max()) for one in apart), "of 255")
    preprocessing = find_spec(MODEL).preprocessing
    classifier = network.load_for(given.scratch, len(pillow), engine="eager")
    first, second = (
        classifier.classify(np.stack([resize_and_crop(one, preprocessing) for one in pictures]))
        for pictures in (pillow, theirs)
    )
    changed = int((first.class_ids[:, 0] != second.class_ids[:, 0]).sum())
    report.note(f"other classes of {len(pillow)}", changed)


def _bytes(body: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(body), dtype=torch.uint8)


def _decode(bodies: list[torch.Tensor]) -> list[Any]:
    """(3, H, W) uint8 each. Waits for the device, because torchvision decodes on its own stream."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        decoded: list[Any] = decode_jpeg(bodies, mode=ImageReadMode.RGB, device="cuda")
    except (ImportError, RuntimeError) as error:
        raise NotHereError(f"torchvision does not decode on the GPU here: {error}") from error
    torch.cuda.synchronize()
    return decoded
