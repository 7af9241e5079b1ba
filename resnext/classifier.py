"""The classifier: batches of uint8 pictures in, their five likeliest classes out.

`load_classifier` is called once, in the one process that may touch CUDA; then `warm_up`,
then `classify` for every batch. One caller at a time: the batcher's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from resnext.download import Progress, download
from resnext.errors import UnknownWeights
from resnext.network import build_network, fold_batch_norms, set_body_dtype
from resnext.precision import DTYPES, Precision, choose_precision, find_device
from resnext.random_weights import draw_weights
from resnext.spec import RANDOM, ModelSpec, find_spec
from resnext.weights import fill_network, read_weights

TOP: Final = 5
_WEIGHTS_SUFFIXES: Final = (".safetensors", ".tar", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Predictions:
    """Of a batch of N pictures; K is 5, or the number of classes where there are fewer."""

    class_ids: np.ndarray
    """(N, K) int64, the likeliest first; of equal scores the lower class id."""
    scores: np.ndarray
    """(N, K) float32, softmax probabilities."""
    finite: np.ndarray
    """(N,) bool; False where the network's scores are no finite numbers: K classes then
    stand there that mean nothing."""


class Classifier:
    """A network on its device. Owns the device's memory; not for two threads at once."""

    def __init__(  # noqa: PLR0913  (what a loaded model is; only load_classifier calls it)
        self,
        spec: ModelSpec,
        network: ResNet,
        *,
        weights: str,
        weights_sha256: str,
        device: torch.device,
        precision: Precision,
        batch_images: int,
    ) -> None:
        self.spec = spec
        self.model = spec.name
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.device = str(device)
        self.precision = precision
        self.batch_images = batch_images
        self._network = network
        self._device = device
        self._dtype = DTYPES[precision]
        self._buckets = _buckets(batch_images)
        self._mean = _channels(spec.preprocessing.mean, device)
        self._std = _channels(spec.preprocessing.std, device)

    @property
    def title(self) -> str:
        """What results show: `resnext101_32x4d/nvidia`, `…/random` or `…/<name of the file>`."""
        return f"{self.model}/{_short_name(self.weights)}"

    def warm_up(self) -> None:
        """Runs every shape that will ever be served, the largest first: what does not fit the
        device fails here, and nothing is compiled or planned later.
        """
        crop = self.spec.preprocessing.crop
        for images in reversed(self._buckets):
            self.classify(np.zeros((images, crop, crop, 3), np.uint8))

    def classify(self, images: np.ndarray) -> Predictions:
        """
        Args:
            images: (N, crop, crop, 3) uint8 RGB, 1 ≤ N ≤ batch_images; read, not kept.

        Raises:
            ValueError: another shape or type.
        """
        self._check(images)
        with torch.inference_mode():
            logits = self._network(self._normalised(self._padded(images)))[: len(images)]
            return _top(logits)

    def _check(self, images: np.ndarray) -> None:
        crop = self.spec.preprocessing.crop
        fits = images.shape[1:] == (crop, crop, 3) and 1 <= len(images) <= self.batch_images
        if images.dtype != np.uint8 or not fits:
            raise ValueError(
                f"{images.shape} {images.dtype}, not (1 to {self.batch_images}, {crop}, {crop}, 3) "
                "uint8"
            )

    def _padded(self, images: np.ndarray) -> np.ndarray:
        """Black pictures up to the next bucket: (N, H, W, 3) → (bucket, H, W, 3)."""
        bucket = next(bucket for bucket in self._buckets if bucket >= len(images))
        if bucket == len(images):
            return np.ascontiguousarray(images)
        padded = np.zeros((bucket, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        return padded

    def _normalised(self, images: np.ndarray) -> Tensor:
        """(N, H, W, 3) uint8 → (N, 3, H, W) in the network's type, channels last in memory.

        A quarter of the bytes travels; the arithmetic is torchvision's ToTensor and Normalize.
        """
        pixels = _shared(images).to(self._device, non_blocking=True)
        pixels = pixels.float().div_(255.0).sub_(self._mean).div_(self._std)
        return pixels.to(self._dtype).permute(0, 3, 1, 2)


def load_classifier(  # noqa: PLR0913  (all but the first two have one obvious value)
    model: str,
    weights: str,
    *,
    precision: Literal["amp", "fp32"] = "amp",
    device: str = "auto",
    cache: Path,
    batch_images: int = 32,
    progress: Progress | None = None,
) -> Classifier:
    """A classifier, ready but for `warm_up`; CUDA is touched here for the first time.

    Args:
        model: a name that `find_spec` knows.
        weights: a name that the model knows, `random`, or a path.
        precision: `amp` (see `resnext.precision`) or `fp32`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache: the folder of downloaded weights.
        batch_images: the most that one call of `classify` will get.
        progress: told of a download.

    Raises:
        UnknownModelError, WeightsError, DeviceError: see `resnext.errors`.
    """
    spec = find_spec(model)
    found = find_device(device)
    network, sha256 = _load_network(spec, weights, cache, progress)
    computed = choose_precision(precision, found)
    fold_batch_norms(network)
    set_body_dtype(network, DTYPES[computed])
    network.requires_grad_(requires_grad=False)
    return Classifier(
        spec,
        network.to(found),
        weights=weights,
        weights_sha256=sha256,
        device=found,
        precision=computed,
        batch_images=batch_images,
    )


def _load_network(
    spec: ModelSpec, weights: str, cache: Path, progress: Progress | None
) -> tuple[ResNet, str]:
    """The network with its values, and the weights' SHA-256."""
    network = build_network(spec)
    if weights == RANDOM:
        return network, draw_weights(network, spec)
    file = spec.weights.get(weights)
    if file is None:
        path = _path_of(weights, spec)
        tensors, sha256 = read_weights(path)
    else:
        path = download(file, cache / "weights", progress)
        tensors, sha256 = read_weights(path, sha256=file.sha256, size_bytes=file.size_bytes)
    fill_network(network, tensors, path)
    return network, sha256


def _path_of(weights: str, spec: ModelSpec) -> Path:
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise UnknownWeights(
            f"Weights {weights!r} are neither a name that {spec.name} knows "
            f"({', '.join(spec.weights_names)}) nor a file: there is no {path}."
        )
    return path


def _short_name(weights: str) -> str:
    """A name as it is; of a path the file's name without its endings."""
    name = Path(weights).name
    while name.endswith(_WEIGHTS_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _buckets(batch_images: int) -> list[int]:
    """Powers of two below `batch_images`, and it: so few shapes that each is warmed up, and
    less than half of a batch is padding.
    """
    return [2**n for n in range((batch_images - 1).bit_length())] + [batch_images]


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _shared(images: np.ndarray) -> Tensor:
    """A tensor on the same memory; torch warns of arrays that may not be written."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def _top(logits: Tensor) -> Predictions:
    """(N, classes) float32 → the best of each, on the CPU."""
    finite = logits.isfinite().all(dim=1)
    probabilities = torch.where(finite[:, None], logits, 0.0).softmax(dim=1)
    # topk gives ties in any order; a stable sort keeps the lower class id first.
    scores, class_ids = probabilities.sort(dim=1, descending=True, stable=True)
    best = slice(min(TOP, logits.shape[1]))
    return Predictions(
        class_ids[:, best].cpu().numpy(), scores[:, best].cpu().numpy(), finite.cpu().numpy()
    )
