"""The training's pictures: decoded once into an array on disk, then cropped step by step.

`train` reads an archive with it. An archive holds `<anything>/<WordNet id>/<name>.jpg`, each
picture 64x64.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIDE: Final = 64

# Light augmentation, because there are only 400 pictures per class, and some forty looks at each.
SMALLEST_AREA: Final = 0.35
WIDEST_RATIO: Final = 4 / 3
CONTRAST: Final = 0.25
BRIGHTNESS: Final = 0.25  # of a standard deviation


class Pictures(NamedTuple):
    """Pictures and their labels. Both have the same rows."""

    pixels: NDArray[np.uint8]
    """(n, 64, 64, 3)."""
    labels: Tensor
    """(n,) int64."""

    def take(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the rows' pixels, (n, 3, 64, 64) float32 in 0 … 1, and labels, (n,) int64."""
        pixels = torch.from_numpy(self.pixels[rows.numpy()]).to(device)
        return pixels.permute(0, 3, 1, 2).float() / 255, self.labels[rows].to(device)


def read_pictures(archive: Path, folder: Path, classes: Mapping[str, int]) -> Pictures:
    """Decodes an archive, or maps the array that an earlier call has written to `folder`.

    Args:
        archive: a tar file.
        folder: the folder for the decoded array, which takes 12 KB per picture.
        classes: the class id of each WordNet id.

    Raises:
        ValueError: the archive contains no picture, a picture that is not 64x64, or a folder that
        is
            not in `classes`.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    pixels, labels = folder / f"{digest}-pixels.npy", folder / f"{digest}-labels.npy"
    if not labels.exists():  # this file is written last
        folder.mkdir(parents=True, exist_ok=True)
        _decode(archive, pixels, labels, classes)
    return Pictures(np.load(pixels, mmap_mode="r"), torch.from_numpy(np.load(labels)))


def _decode(archive: Path, pixels: Path, labels: Path, classes: Mapping[str, int]) -> None:
    found: list[tuple[str, bytes]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".jpg"):
                found.append((member.name, file.read()))
    if not found:
        raise ValueError(f"Archive {archive} contains no .jpg file.")
    found.sort()
    part = pixels.with_suffix(".part")
    array = np.lib.format.open_memmap(part, "w+", np.uint8, (len(found), SIDE, SIDE, 3))
    for row, (name, content) in enumerate(found):
        array[row] = _decode_one(name, content)
    array.flush()
    part.replace(pixels)
    np.save(labels, np.array([_class_of(name, classes) for name, _ in found], np.int64))


def _decode_one(name: str, content: bytes) -> NDArray[np.uint8]:
    image = Image.open(BytesIO(content))
    if image.size != (SIDE, SIDE):
        raise ValueError(f"Picture {name} is {image.width}x{image.height}, not {SIDE}x{SIDE}.")
    return np.asarray(image.convert("RGB"))


def _class_of(name: str, classes: Mapping[str, int]) -> int:
    folder = Path(name).parent.name
    if folder not in classes:
        raise ValueError(f"Picture {name} lies in {folder!r}, which is not one of the classes.")
    return classes[folder]


def hold_out(labels: Tensor, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the pictures, always in the same way for the same seed.

    Args:
        labels: (n,) int64.
        per_class: how many pictures of each class are held out.
        seed: the seed of the choice.

    Returns:
        The rows to train on, and the held-out rows, both ascending.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    is_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        is_out[shuffled[labels[shuffled] == label][:per_class]] = True
    return (~is_out).nonzero().flatten(), is_out.nonzero().flatten()


class Look(NamedTuple):
    """The random changes of a step's pictures. The CPU draws them, so all devices get the same."""

    grid: Tensor
    """(n, 2, 3) float32, maps places in the crop to places in the picture, both in -1 … 1."""
    contrast: Tensor
    """(n, 1, 1, 1) float32."""
    brightness: Tensor
    """(n, 1, 1, 1) float32."""

    @classmethod
    def draw(cls, n: int, generator: torch.Generator) -> Look:
        """Draws crops of random place, size and shape within bounds, and mirrors half of them."""

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=generator)

        area = uniform(SMALLEST_AREA, 1)
        ratio = WIDEST_RATIO ** uniform(-1, 1)
        width = (area * ratio).sqrt().clamp(max=1)
        height = (area / ratio).sqrt().clamp(max=1)
        left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        mirror = 1 - 2 * torch.randint(0, 2, (n,), generator=generator)
        none = torch.zeros(n)
        rows = torch.stack([width * mirror, none, left, none, height, top], dim=1)
        contrast, brightness = uniform(1 - CONTRAST, 1 + CONTRAST), uniform(-BRIGHTNESS, BRIGHTNESS)
        return cls(rows.view(n, 2, 3), contrast.view(n, 1, 1, 1), brightness.view(n, 1, 1, 1))

    def crop(self, pictures: Tensor, side: int) -> Tensor:
        """(n, 3, 64, 64) float32 → (n, 3, side, side) with values on the same scale."""
        shape = [len(pictures), 3, side, side]
        grid = functional.affine_grid(self.grid.to(pictures.device), shape, align_corners=False)
        return functional.grid_sample(
            pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )

    def colour(self, pictures: Tensor) -> Tensor:
        """(n, 3, H, W) float32, normalised → the same shape, other contrast and brightness."""
        device = pictures.device
        return pictures * self.contrast.to(device) + self.brightness.to(device)
