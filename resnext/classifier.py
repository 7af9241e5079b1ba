"""The classifier: batches of uint8 pictures in, their five most likely classes out.

    from resnext import load_classifier
    classifier = load_classifier()
    print(classifier.predict(["cat.jpg"])[0].top5[0].label)

A worker calls `load_classifier` once, in the only process that may use CUDA, then `warm_up`, and
then `start` for every batch. Only one thread may call at once: the batcher's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resnext.errors import DeviceBroken, EngineError
from resnext.load import default_cache, load_network
from resnext.network import ResNeXt
from resnext.picture.decode import DecodeError, DecodeLimits, as_decode_error, decode
from resnext.picture.orientation import Orientation, orientation_of
from resnext.picture.preprocess import Preprocessing, resize_and_crop, to_rgb
from resnext.picture.turn import turned
from resnext.predictions import Best, Predictions, best_of_each
from resnext.run.cuda_runner import CudaRunner
from resnext.run.engine import (
    Engine,
    PixelsToLogits,
    choose_engine,
    choose_layers,
    compile_module,
    fuse,
    prepare,
    why_not_compiled,
)
from resnext.run.faults import first_line, is_broken, is_out_of_memory
from resnext.run.gpu import choose_batch_images, memory_of
from resnext.run.layers.choice import Choice
from resnext.run.layers.fastest import Fastest
from resnext.run.layers.network import ChosenNetwork
from resnext.run.openvino_engine import convert
from resnext.run.precision import Precision, choose_precision, find_device
from resnext.run.runner import CpuRunner, CpuStreams, Pixels, Runner, Started, Top
from resnext.spec.catalogue import find_spec
from resnext.spec.model import ModelSpec
from resnext.weights.download import Progress

TOP: Final = 5
DECODE_LIMITS: Final = DecodeLimits()
FACTOR: Final = 2
"""The factor between sizes of batches. With 2, less than half of a batch is padding."""
FACTOR_COMPILED: Final = 4
"""The factor if each size must be compiled, which takes minutes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guess:
    label: str
    class_id: int
    score: float
    """A softmax probability."""


@dataclass(frozen=True)
class Answer:
    """The result of `predict` for one picture: its classes, or an error."""

    top5: tuple[Guess, ...] = ()
    """The most likely class first. Empty if there is an error."""
    error: str | None = None
    """`code: detail`."""


NOT_FINITE: Final = Answer(error="not_finite: the network's scores are not finite numbers")

Picture = bytes | str | os.PathLike[str] | Image.Image


class Pending:
    """A batch's predictions, which may not be computed yet."""

    def __init__(self, parts: Sequence[Started]) -> None:
        self._parts = parts

    def is_done(self) -> bool:
        return all(part.is_done() for part in self._parts)

    def result(self) -> Predictions:
        """Waits for the predictions."""
        ids, scores, finite = zip(*(part.result() for part in self._parts), strict=True)
        return Predictions(
            torch.cat(ids).numpy(), torch.cat(scores).numpy(), torch.cat(finite).numpy()
        )


class Classifier:
    """A network on its device. Owns the device's memory. Only one thread may use it at once."""

    def __init__(  # noqa: PLR0913  (what a loaded model is; only load_classifier calls it)
        self,
        spec: ModelSpec,
        module: nn.Module,
        *,
        weights: str,
        weights_sha256: str,
        licence: str,
        device: torch.device,
        precision: Precision,
        batch_images: int,
        engine: Engine = "eager",
        orientation: Orientation = "ignore",
        cache: Path | None = None,
    ) -> None:
        """`cache` keeps measurements of layers on a GPU. With None, nothing is kept."""
        self.spec = spec
        self.model = spec.name
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.licence = licence
        self.device = str(device)
        self.precision = precision
        self.batch_images = batch_images
        self.engine = engine
        self.orientation = orientation
        self._module = module
        self._device = device
        self._cache = cache
        self._most = batch_images  # the most that fit into the device's memory, as far as known
        self._use(engine)

    def warm_up(self) -> None:
        """Runs every size of batch that will be used, the largest first, in all of the runner's
        memory. So problems with memory or the compiler appear here, and nothing is planned later.

        Raises:
            DeviceBroken: the device fails on everything.
            torch.OutOfMemoryError, RuntimeError: not even a single picture can be classified.
        """
        try:
            self._run_each_size()
        except Exception as error:
            if not self._is_for_want_of_a_compiler(error):
                raise
            self._give_up_compiling(error)
            self._run_each_size()

    def _run_each_size(self) -> None:
        crop = self.spec.preprocessing.crop
        for bucket in reversed(self._buckets):
            for _ in range(self._runner.lanes if bucket <= self._most else 0):
                self.classify(np.zeros((bucket, crop, crop, 3), np.uint8))

    def classify(self, images: Pixels) -> Predictions:
        """Classifies a batch.

        Args:
            images: (N, crop, crop, 3) uint8 RGB, 1 ≤ N ≤ batch_images; not kept.

        Raises:
            ValueError: the shape or type is wrong.
            DeviceBroken: this process can classify no more batches.
        """
        return self.start(images).result()

    def logits(self, images: Pixels) -> np.ndarray:
        """(N, crop, crop, 3) uint8 → (N, classes) float32, computed like `classify`, with the same
        engine and on CUDA by a graph. It is for comparisons, and needs extra memory and time.
        """
        self._check(images)
        runner = self._make_runner(lambda logits: (logits, logits, logits.isfinite().all(dim=1)))
        return runner.start(images, self._bucket(len(images))).result()[0].numpy()

    def room(self) -> Pixels:
        """(N, crop, crop, 3) uint8, N ≤ batch_images: memory for the next batch. A batch that is
        written here, from the first place on, is classified without another copy. It has room for
        as many pictures as fit into the device's memory, as far as known. Call this again for each
        batch.
        """
        return self._runner.room()[: self._most]

    @property
    def overwrites(self) -> int:
        """How often a batch from other memory was copied into a `room`, over its content. A batch
        in its own `room` stays valid until the second next call of `room`, unless this has changed.
        """
        return self._runner.overwrites

    @property
    def device_memory(self) -> dict[str, int]:
        """Bytes by kind: `allocated`, `reserved` and `total` of a GPU. Empty on a CPU. Any thread
        may read this.
        """
        return memory_of(self._device)

    def start(self, images: Pixels) -> Pending:
        """Like `classify`, but on CUDA it returns while the batch is computed. Two batches may be
        in flight.
        """
        self._check(images)
        parts = []
        while len(images):
            batch = images[: self._most]
            if (part := self._start_if_it_fits(batch)) is None:
                self._halve()
            else:
                parts.append(part)
                images = images[len(batch) :]
        return Pending(parts)

    def _start_if_it_fits(self, batch: Pixels) -> Started | None:
        """Starts a batch. Returns None if it needs too much memory. The memory of the failed try is
        then free, because the exception that refers to it is gone.
        """
        try:
            return self._runner.start(batch, self._bucket(len(batch)))
        except Exception as error:
            if not is_out_of_memory(error) or self._most == 1:
                raise
            return None

    def layer_choices(self, images: int) -> list[Choice]:
        """How each layer of the network is computed in batches of this size, and why. Measures what
        is not measured yet. Empty on a CPU, and if only the compiled network is used.
        """
        layers = next(
            (part for part in self._module.modules() if isinstance(part, ChosenNetwork)), None
        )
        if layers is None:
            return []
        network = layers.chooser.find_network(images)
        return [*layers.choose(images), *([] if network is None else [network])]

    def predict(self, pictures: Iterable[Picture]) -> list[Answer]:
        """Returns one answer per picture, in their order. A picture is the bytes of a file, a path,
        or a Pillow image.

        A picture that fails has an error in its answer, and does not affect the others.

        Raises:
            TypeError: a single picture instead of several, or values that are not pictures.
        """
        return list(self.predict_each(pictures))

    def predict_each(self, pictures: Iterable[Picture]) -> Iterator[Answer]:
        """Like `predict`, but batch by batch, so memory does not grow with the pictures."""
        if isinstance(pictures, bytes | str | os.PathLike | Image.Image):
            raise TypeError("expected a list of pictures; write [picture] for a single one")
        return self._predict_each(iter(pictures))

    def _predict_each(self, pictures: Iterator[Picture]) -> Iterator[Answer]:
        while batch := list(islice(pictures, self.batch_images)):
            seen = [self._see(picture) for picture in batch]
            good = [pixels for pixels in seen if isinstance(pixels, np.ndarray)]
            found = iter(self._answers(np.stack(good)) if good else ())
            for pixels in seen:
                yield Answer(error=pixels) if isinstance(pixels, str) else next(found)

    def _use(self, engine: Engine) -> None:
        self.engine = engine
        factor = FACTOR_COMPILED if engine == "compiled" else FACTOR
        self._buckets = batch_sizes(self.batch_images, factor)
        self._forward = (
            compile_module(self._module, self._device) if engine == "compiled" else self._module
        )
        self._runner = self._make_runner(_top)

    def _make_runner(self, top: Callable[[Tensor], Top]) -> Runner:
        crop = self.spec.preprocessing.crop
        shape = (self.batch_images, crop, crop, 3)
        if self._device.type == "cuda":
            return CudaRunner(self._forward, top, shape, self._device)
        # The other engines divide the work among cores themselves.
        in_streams = self.engine == "eager"
        return CpuRunner(CpuStreams(self._forward) if in_streams else self._forward, top, shape)

    def _classify_anyhow(self, images: Pixels) -> Predictions:
        """Like `classify`. If compiling fails, it runs uncompiled from here on."""
        try:
            return self.classify(images)
        except Exception as error:
            if not self._is_for_want_of_a_compiler(error):
                raise
            self._give_up_compiling(error)
            return self.classify(images)

    def _is_for_want_of_a_compiler(self, error: Exception) -> bool:
        """Whether a compiled network failed, and neither memory nor the device is the cause."""
        of_device = isinstance(error, DeviceBroken) or is_broken(error) or is_out_of_memory(error)
        return self.engine == "compiled" and not of_device

    def _give_up_compiling(self, error: Exception) -> None:
        logger.warning(
            "The network cannot be compiled here and runs uncompiled: %s", first_line(error)
        )
        torch._dynamo.reset()  # noqa: SLF001  (the public way to drop compiled code)
        assert isinstance(self._module, PixelsToLogits)  # noqa: S101  (only this is compiled)
        self._module = _make_eager(
            self._module, self.spec, self._device, self.precision, self._cache
        )
        self._use("eager")

    def _halve(self) -> None:
        if self._most == self.batch_images:
            logger.warning(
                "Batches of %d do not fit into the memory of %s. Using smaller batches.",
                self.batch_images,
                self.device,
            )
        self._most = max(bucket for bucket in self._buckets if bucket <= max(1, self._most // 2))
        self._runner.shrink(self._most)

    def _bucket(self, images: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= images)

    def _check(self, images: Pixels) -> None:
        crop = self.spec.preprocessing.crop
        fits = images.shape[1:] == (crop, crop, 3) and 1 <= len(images) <= self.batch_images
        if images.dtype != np.uint8 or not fits:
            raise ValueError(
                f"{images.shape} {images.dtype}, not (1 to {self.batch_images}, {crop}, {crop}, 3) "
                "uint8"
            )

    def _see(self, picture: Picture) -> Pixels | str:
        """Returns the pixels, (crop, crop, 3) uint8, or an error."""
        preprocessing = self.spec.preprocessing
        try:
            if isinstance(picture, Image.Image):
                return _pixels_of(picture, preprocessing, self.orientation)
            body = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
            return decode(
                body,
                limits=DECODE_LIMITS,
                preprocessing=preprocessing,
                orientation=self.orientation,
            ).pixels
        except DecodeError as error:
            return str(error)
        except (OSError, ValueError) as error:  # ValueError: not a valid file name
            return f"unreadable: {getattr(error, 'strerror', None) or error}"

    def _answers(self, images: Pixels) -> Iterator[Answer]:
        for best in best_of_each(self._classify_anyhow(images)):
            yield NOT_FINITE if best is None else Answer(tuple(self._guesses(best)))

    def _guesses(self, best: Best) -> Iterator[Guess]:
        for class_id, score in zip(best.class_ids, best.scores, strict=True):
            yield Guess(self.spec.categories[class_id], class_id, score)


def _pixels_of(
    image: Image.Image, preprocessing: Preprocessing, orientation: Orientation
) -> Pixels:
    """Returns the pixels of a Pillow image, (crop, crop, 3) uint8.

    Raises:
        DecodeError: Pillow reads a file's pixels only now, and failed.
    """
    try:
        rgb = to_rgb(image)
        if orientation == "exif":
            rgb = turned(rgb, orientation_of(image))
        return resize_and_crop(rgb, preprocessing)
    except Exception as error:
        raise as_decode_error(error, image) from error


def load_classifier(  # noqa: PLR0913  (all but the first two have one obvious value)
    model: str = "resnext101_32x4d",
    weights: str | None = None,
    *,
    precision: Literal["amp", "fp32"] = "amp",
    device: str = "auto",
    engine: Engine | Literal["auto"] = "auto",
    cache: Path | None = None,
    batch_images: int | None = None,
    threads: int | None = None,
    cores: int | None = None,
    orientation: Orientation = "ignore",
    progress: Progress | None = None,
) -> Classifier:
    """Loads a classifier. It is ready for use except for `warm_up`. This is the first use of CUDA.

    Args:
        model: a name that `find_spec` knows, or the path of a JSON file (see `own_spec`).
        weights: a name that the model knows, `random`, or a path. None: the model's default.
        precision: `amp` (see `resnext.run.precision`) or `fp32`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        engine: `auto`, `eager`, `compiled` or `openvino` (see `resnext.run.engine`).
        cache: the folder for downloaded weights and for measurements on a GPU. None:
            `~/.cache/resnext-queue`.
        batch_images: the most images in one call of `classify`. None: chosen by the device's memory
            (see `resnext.run.gpu`), 32 on a CPU.
        threads: the number of torch's threads in this process. None: one per core, 1 on CUDA.
        cores: the number of cores that this process may use. None: those of its CPU affinity.
        orientation: `exif` turns pictures in `predict` as their EXIF says. `ignore` takes them as
            they are stored, like NVIDIA's preprocessing.
        progress: called during a download.

    Raises:
        UnknownModelError, BadSpec, WeightsError, DeviceError, EngineError: see `resnext.errors`.
        DeviceBroken: the device fails on everything.
    """
    spec = find_spec(model)
    found = find_device(device)
    loaded = load_network(spec, weights, cache, progress)
    computed, chosen = choose_precision(precision, found), choose_engine(engine, found)
    if engine == "auto" and found.type == "cuda" and chosen == "eager":
        why = "; ".join(why_not_compiled(found))
        logger.info("Each layer uses the fastest way that needs no compiler: %s.", why)
    torch.set_num_threads(threads or _threads(found, cores))
    images, kept_in = batch_images or choose_batch_images(found), cache or default_cache()
    make = partial(
        _make_module,
        loaded.network,
        spec,
        device=found,
        precision=computed,
        batch_images=images,
        cache=kept_in,
    )
    try:
        module = make(engine=chosen)
    except EngineError as error:
        if engine != "auto":
            raise
        logger.warning("The network runs eagerly, which is slower: %s", error)
        chosen = "eager"
        module = make(engine=chosen)
    return Classifier(
        spec,
        module,
        weights=loaded.weights,
        weights_sha256=loaded.sha256,
        licence=loaded.licence,
        device=found,
        precision=computed,
        batch_images=images,
        engine=chosen,
        orientation=orientation,
        cache=kept_in,
    )


def _make_module(  # noqa: PLR0913  (the choices that make a module)
    network: ResNeXt,
    spec: ModelSpec,
    *,
    device: torch.device,
    precision: Precision,
    engine: Engine,
    batch_images: int,
    cache: Path,
) -> nn.Module:
    """Makes the module from uint8 pixels to logits. For `compiled` it is not compiled yet."""
    if engine == "openvino":
        module = prepare(network, spec.preprocessing, device, "fp32")
        return convert(module, spec.preprocessing.crop, precision, torch.get_num_threads())
    module = prepare(network, spec.preprocessing, device, precision)
    if engine == "compiled":
        return module
    eager = _make_eager(module, spec, device, precision, cache)
    if isinstance(eager, ChosenNetwork) and engine == "fastest":
        sizes = batch_sizes(batch_images, FACTOR_COMPILED)
        return Fastest(eager, lambda: compile_module(module, device), sizes)
    return eager


def _make_eager(
    module: PixelsToLogits,
    spec: ModelSpec,
    device: torch.device,
    precision: Precision,
    cache: Path | None,
) -> nn.Module:
    """Makes the module with fused convolutions. On a CPU this changes `module`."""
    if device.type == "cuda":
        return choose_layers(
            module, spec.preprocessing, device, precision, name=spec.name, cache=cache
        )
    fuse(module, device, spec.preprocessing.crop)
    return module


def _threads(device: torch.device, cores: int | None) -> int:
    """1 with CUDA, which computes without torch's threads. On a CPU, one per core."""
    return 1 if device.type == "cuda" else cores or len(os.sched_getaffinity(0))


def batch_sizes(batch_images: int, factor: int = FACTOR) -> list[int]:
    """The sizes of batches, in ascending order: `batch_images`, divided by `factor` down to 1.

    They are few, so that each can be warmed up.
    """
    sizes = [batch_images]
    while sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // factor))
    return sizes


def _top(logits: Tensor) -> Top:
    """(N, classes) float32 → the best classes of each picture, on the same device."""
    finite = logits.isfinite().all(dim=1)
    probabilities = torch.where(finite[:, None], logits, 0.0).softmax(dim=1)
    # topk returns ties in any order. A stable sort keeps the lower class id first.
    scores, class_ids = probabilities.sort(dim=1, descending=True, stable=True)
    best = min(TOP, logits.shape[1])
    return class_ids[:, :best], scores[:, :best], finite
