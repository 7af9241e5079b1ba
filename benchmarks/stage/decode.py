"""Compares the routes from a photograph's bytes to the network's pixels: speed and differences.

    python -m benchmarks.stage.decode photographs.tar

Measures CPU time on one core. Every round runs each route in turn; the first round does not count.
Then it compares the fast route with the exact one: how far pixels differ, and how often the network
names the same class and the same five classes. The reference is torchvision's `Resize` and
`CenterCrop` on Pillow's picture. Then it times resize and crop of a decoded picture alone, in each
way that gives the same bits. With CUDA it also measures nvJPEG and a resize on the device, in
batches and by wall clock, because the device computes beside the core.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import CenterCrop, Compose, Resize

from resnext import load_classifier
from resnext.picture import preprocess
from resnext.picture.decode import DecodeLimits, Route, decode
from resnext.picture.preprocess import resize_and_crop
from resnext.picture.resample import Pixels
from resnext.spec.catalogue import find_spec

BATCH = 32
LIMITS = DecodeLimits()
PREPROCESSING = find_spec("resnext101_32x4d").preprocessing

console = Console()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("archive", type=Path, help="a tar file of JPEG photographs")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--model", default="resnext101_32x4d", help="that is asked for answers")
    arguments.add_argument("--weights", default="random")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    bodies = read_archive(chosen.archive)
    routes = {
        "reference: Pillow, torchvision's transforms": reference,
        "exact": partial(by, route="exact"),
        "fast": partial(by, route="fast"),
    }
    print_times(measure(routes, bodies, chosen.rounds))
    print_times(measure_resizing(bodies, chosen.rounds))
    exact, fast = ([route(body) for body in bodies] for route in list(routes.values())[1:])
    same = sum(np.array_equal(reference(b), e) for b, e in zip(bodies, exact, strict=True))
    console.print(f"exact: {same} of {len(bodies)} are the reference's, to the bit")
    print_effect("fast", exact, fast, chosen.model, chosen.weights)
    if not torch.cuda.is_available():
        console.print("nvJPEG: not measured: no CUDA")
        return
    try:
        on_device, ms = decode_on_device(bodies, chosen.rounds)
    except RuntimeError as error:  # a torchvision that was built without it
        console.print(f"nvJPEG: not measured: {error}")
        return
    console.print(f"nvJPEG: {statistics.median(ms):.2f} ms per image by wall clock ({spread(ms)})")
    print_effect("nvJPEG", exact, on_device, chosen.model, chosen.weights)


def read_archive(path: Path) -> list[bytes]:
    with tarfile.open(path) as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        bodies = [file.read() for file in files if file is not None]
    return [body for body in bodies if body.startswith(b"\xff\xd8\xff")]


_TRANSFORMS = Compose([Resize(PREPROCESSING.resize), CenterCrop(PREPROCESSING.crop)])


def reference(body: bytes) -> Pixels:
    return np.asarray(_TRANSFORMS(Image.open(io.BytesIO(body)).convert("RGB")))


def by(body: bytes, *, route: Route) -> Pixels:
    return decode(body, limits=LIMITS, preprocessing=PREPROCESSING, route=route).pixels


def measure(
    routes: dict[str, Callable[[bytes], Pixels]], bodies: list[bytes], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds per image, for each route in each round."""
    found: dict[str, list[float]] = {name: [] for name in routes}
    for turn in track(range(rounds + 1), "decoding", console=console, transient=True):
        for name, route in routes.items():
            began = time.thread_time()
            for body in bodies:
                route(body)
            if turn:
                found[name].append((time.thread_time() - began) / len(bodies) * 1000)
    return found


def measure_resizing(bodies: list[bytes], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds per image from Pillow's picture to the crop. The ways take turns in going
    first, because the first one finds the picture in no cache.
    """
    ways = resizing_ways()
    names = [*ways]
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in track(range(rounds + 1), "resizing", console=console, transient=True):
        taken = dict.fromkeys(ways, 0.0)
        for number, body in enumerate(bodies):
            image = Image.open(io.BytesIO(body)).convert("RGB")
            expected = np.asarray(_TRANSFORMS(image))
            for name in sorted(names, key=lambda name: (names.index(name) + number) % len(names)):
                began = time.thread_time()
                pixels = ways[name](image)
                taken[name] += time.thread_time() - began
                assert np.array_equal(pixels, expected), name
        if turn:
            for name, seconds in taken.items():
                found[name].append(seconds / len(bodies) * 1000)
    return found


def resizing_ways() -> dict[str, Callable[[Image.Image], Pixels]]:
    native = preprocess.native
    ours = partial(resize_and_crop, preprocessing=PREPROCESSING)
    ways: dict[str, Callable[[Image.Image], Pixels]] = {
        "torchvision's transforms on Pillow": lambda image: np.asarray(_TRANSFORMS(image)),
        "ours without the extension": partial(with_instead, preprocess, "native", None, ours),
    }
    if native is None:
        console.print("in C: not measured: the extension is not built")
        return ways
    borrowed = native._borrowed

    def by_strips(image: Image.Image) -> Pixels:
        part = lambda one: None if one is image else borrowed(one)  # noqa: E731
        return with_instead(native, "_borrowed", part, ours, image)

    def by_copy(image: Image.Image) -> Pixels:
        copied = lambda one: np.asarray(one.convert("RGBX"))  # noqa: E731
        return with_instead(native, "_borrowed", copied, ours, image)

    return ways | {
        "in C, out of a copy": by_copy,
        "in C, out of copied strips": by_strips,
        "in C, out of Pillow's memory": ours,
    }


def with_instead(
    of: Any, name: str, instead: object, work: Callable[..., Pixels], *arguments: object
) -> Pixels:
    """Runs `work` while a module's name stands for something else."""
    before = getattr(of, name)
    setattr(of, name, instead)
    try:
        return work(*arguments)
    finally:
        setattr(of, name, before)


def print_times(found: dict[str, list[float]]) -> None:
    table = Table("", "CPU ms per image", "fastest to slowest", "ratio")
    peer = statistics.median(next(iter(found.values())))
    for name, times in found.items():
        median = statistics.median(times)
        table.add_row(name, f"{median:.2f}", spread(times), f"{peer / median:.2f}")
    console.print(table)


def spread(times: list[float]) -> str:
    return f"{min(times):.2f} to {max(times):.2f}"


def decode_on_device(bodies: list[bytes], rounds: int) -> tuple[list[Pixels], list[float]]:
    """The pixels from nvJPEG, and milliseconds per image for each round."""
    files = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in bodies]
    batches = [files[first : first + BATCH] for first in range(0, len(files), BATCH)]
    times: list[float] = []
    for turn in range(rounds + 1):
        began = time.monotonic()
        pixels = [picture for batch in batches for picture in decode_batch(batch)]
        if turn:
            times.append((time.monotonic() - began) / len(bodies) * 1000)
    return pixels, times


def decode_batch(files: list[torch.Tensor]) -> list[Pixels]:
    pictures = decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda")
    cropped = torch.stack([_TRANSFORMS(picture) for picture in pictures])
    return list(cropped.permute(0, 2, 3, 1).cpu().numpy())  # waits for the device


def print_effect(
    name: str, exact: list[Pixels], other: list[Pixels], model: str, weights: str
) -> None:
    apart = np.abs(np.stack(exact).astype(int) - np.stack(other).astype(int))
    torch.set_num_threads(os.cpu_count() or 1)
    classifier = load_classifier(model, weights, precision="fp32")
    first, second = (classify_all(classifier.classify, pixels) for pixels in (exact, other))
    top1 = int((first[:, 0] == second[:, 0]).sum())
    top5 = int((np.sort(first, axis=1) == np.sort(second, axis=1)).all(axis=1).sum())
    console.print(
        f"{name}: a pixel is {apart.mean():.2f} of 255 beside the exact one on average, "
        f"{apart.max()} at most; {model} with weights {weights} names the same class for "
        f"{top1} of {len(exact)} photographs, and the same five for {top5}"
    )


def classify_all(classify: Callable[[Pixels], object], pixels: list[Pixels]) -> np.ndarray:
    """(N, 5) class ids."""
    batches = [np.stack(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
    return np.concatenate(
        [
            classify(batch).class_ids
            for batch in track(batches, "classifying", console=console, transient=True)
        ]
    )


if __name__ == "__main__":
    main()
