"""The network that the steps run, its weights, pictures for it, and the expected answers.

Weights are drawn once for all steps of a check. The answers come from torchvision's own network, in
float64 on the CPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from benchmarks.model.contenders import MODEL, normal, torchvision_network
from resnext import Classifier, load_classifier
from resnext.network import build_network
from resnext.picture.preprocess import resize_and_crop, to_rgb
from resnext.spec.catalogue import find_spec
from resnext.weights.random import draw_weights, synthetic_pictures

_PICTURES: Final = Path(__file__).parents[2] / "demo" / "pictures"
_NAMES: Final = (
    "arch", "bison", "chelsea", "coffee", "coffee-rotated", "goldfish", "koala", "shepherd",
)  # fmt: skip

DIFFERENT: Final = 12
"""Different pictures in a batch; a larger batch repeats them."""
# With this factor the stem gives 105,000 for the photographs, and no layer gives more than 43,000
# for a plain picture. The limit of fp16 is 65,504.
_OVERFLOWING: Final = 12_000


def weights_in(scratch: Path) -> Path:
    """The file of random weights, with torchvision's names; the first step that asks writes it."""
    path = scratch / "weights.pth"
    if not path.exists():
        spec = find_spec(MODEL)
        network = build_network(spec)
        draw_weights(network, spec)
        aside = path.with_suffix(".part")
        torch.save(network.state_dict(), aside)
        aside.rename(path)
    return path


def overflowing_weights_in(scratch: Path) -> Path:
    """The same weights with another stem: for a picture with contrast its output exceeds fp16, for
    a picture without contrast it stays far below the limit.
    """
    path = scratch / "overflowing.pth"
    tensors = torch.load(weights_in(scratch), weights_only=True)
    for name in ("bn1.weight", "bn1.bias"):
        tensors[name] *= _OVERFLOWING
    torch.save(tensors, path)
    return path


def load(scratch: Path, **options: Any) -> Classifier:
    """Loads the classifier. Its measurements are kept for later steps."""
    return load_classifier(MODEL, str(weights_in(scratch)), cache=scratch / "cache", **options)


def load_for(scratch: Path, size: int, **options: Any) -> Classifier:
    """Loads and warms up only for batches of this size; other sizes would take more time."""
    classifier = load(scratch, batch_images=size, **options)
    classifier._buckets = [size]
    classifier.warm_up()
    return classifier


def photograph_files() -> list[Path]:
    return [_PICTURES / f"{name}.jpg" for name in _NAMES]


def photographs() -> np.ndarray:
    """(8, 224, 224, 3) uint8."""
    preprocessing = find_spec(MODEL).preprocessing
    return np.stack(
        [resize_and_crop(to_rgb(Image.open(file)), preprocessing) for file in photograph_files()]
    )


def noise(number: int) -> np.ndarray:
    """(number, 224, 224, 3) uint8: coloured noise of many sizes; the number is even."""
    preprocessing = find_spec(MODEL).preprocessing
    made = synthetic_pictures(number, preprocessing, torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (preprocessing.mean, preprocessing.std))
    pixels = ((made * std + mean) * 255).round().byte()
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def batch_of(size: int) -> np.ndarray:
    """(size, 224, 224, 3) uint8: a few photographs and noise pictures, repeated."""
    return repeated(np.concatenate([photographs(), noise(DIFFERENT - len(_NAMES))]), size)


def reference_logits(scratch: Path, number: int) -> np.ndarray:
    """(number, 1000) float64 for the first pictures of `batch_of`; computed once for all steps."""
    path = scratch / f"reference-{number}.npy"
    if not path.exists():
        weights_in(scratch)
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # a classifier on a GPU sets 1
        network = torchvision_network(scratch).double()
        with torch.inference_mode():
            np.save(path, network(normal(batch_of(number)).double()).numpy())
    logits: np.ndarray = np.load(path)
    return logits


def repeated(rows: np.ndarray, number: int) -> np.ndarray:
    """Repeats the rows until there are `number` of them."""
    made: np.ndarray = rows[np.arange(number) % len(rows)]
    return made
