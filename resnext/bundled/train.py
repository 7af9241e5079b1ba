"""Trains the bundled model from nothing: the ResNeXt-29 of `catalogue.BUNDLED` on CIFAR-10.

    python -m resnext.bundled.train cifar10-train.tar.gz --folder training
    python -m resnext.bundled.train cifar10-train.tar.gz --folder training --test test.tar.gz

An archive holds `<anything>/<class>/<name>.jpg`. Of each class 200 images are held out and
measured after each epoch; nothing is chosen by them but whether something is wrong. The state
is kept after each epoch in the folder: started again, it goes on from there. At the end the
weights lie in the folder as safetensors. `--test` measures a second archive, once, with the
weights that lie there: the training never sees it.

The recipe: SGD with Nesterov momentum, cycles of the learning rate (Smith, Super-Convergence,
2018), of which the middle one sees the images smaller, at half the cost of an epoch (Hoffer et
al., Mix & Match, 2019), weight decay off batch-norm and biases, label smoothing (Szegedy et al.,
2016), random crops with 4 pixels of padding and mirror images, an exponential moving average of
the weights. Seeded: the order of images and the crops of an epoch depend on seed and epoch alone.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnext.network import ResNeXt
from resnext.run.precision import computes_bf16
from resnext.spec.catalogue import BUNDLED, CIFAR_CATEGORIES, known_specs
from resnext.weights.file import fill_network, read_weights
from resnext.weights.random import normalise

HELD_OUT_A_CLASS: Final = 200
PAD: Final = 4
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-4
LABEL_SMOOTHING: Final = 0.1
WARM_UP: Final = 0.15  # of all steps, up to the highest learning rate
EMA_DECAY: Final = 0.998
EVALUATION_IMAGES: Final = 500

console = Console()


class Pictures(NamedTuple):
    pixels: Tensor
    """(n, 32, 32, 3) uint8."""
    labels: Tensor
    """(n,) int64."""


class Cycle(NamedTuple):
    """Of the learning rate: a cosine up to its peak, and a longer one down to nothing."""

    epochs: int
    peak: float
    side: int
    """Of the images, in pixels."""

    @classmethod
    def parse(cls, text: str) -> Cycle:
        """`EPOCHS:PEAK:SIDE`."""
        epochs, peak, side = text.split(":")
        return cls(int(epochs), float(peak), int(side))

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of the cycle is."""
        if done < WARM_UP:
            return self.peak * (1 - math.cos(math.pi * done / WARM_UP)) / 2 + 1e-3
        return self.peak * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


CYCLES: Final = (Cycle(16, 0.2, 32), Cycle(24, 0.15, 24), Cycle(12, 0.08, 32))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    cycles: tuple[Cycle, ...]
    batch_images: int
    seed: int

    @property
    def epochs(self) -> int:
        return sum(cycle.epochs for cycle in self.cycles)

    def cycle_at(self, epoch: int) -> tuple[Cycle, int]:
        """The cycle that an epoch lies in, and which of its epochs that is, from 0."""
        for cycle in self.cycles:
            if epoch < cycle.epochs:
                return cycle, epoch
            epoch -= cycle.epochs
        raise IndexError(epoch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="the training images")
    parser.add_argument("--folder", type=Path, required=True, help="for state and weights")
    parser.add_argument("--test", type=Path, help="only measure the weights, on these images")
    parser.add_argument(
        "--cycles", type=Cycle.parse, nargs="+", default=CYCLES, metavar="EPOCHS:PEAK:SIDE"
    )
    parser.add_argument("--batch-images", type=int, default=128)
    parser.add_argument("--seed", type=int, default=29)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    weights = chosen.folder / f"{BUNDLED}.safetensors"
    if chosen.test is not None:
        console.print(f"test accuracy {measure_file(weights, read_archive(chosen.test)):.2%}")
        return 0
    recipe = Recipe(cycles=tuple(chosen.cycles), batch_images=chosen.batch_images, seed=chosen.seed)
    kept, held_out = hold_out(read_archive(chosen.archive), recipe.seed)
    console.print(f"{len(kept.labels):,} images to train on, {len(held_out.labels):,} held out")
    training = Training(recipe, len(kept.labels), chosen.folder / "state.pt")
    training.run(kept, held_out)
    save_weights(training.averaged, weights)
    console.print(f"held-out accuracy of {weights}: {measure_file(weights, held_out):.2%}")
    return 0


def read_archive(path: Path) -> Pictures:
    """
    Raises:
        KeyError: an image lies in a folder that is no class of CIFAR-10.
    """
    pixels, labels = [], []
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.name.endswith(".jpg")), key=lambda m: m.name)
        for member in members:
            file = archive.extractfile(member)
            assert file is not None  # noqa: S101  (a regular file, by its name)
            pixels.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
            labels.append(CIFAR_CATEGORIES.index(Path(member.name).parent.name))
    return Pictures(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))


def hold_out(pictures: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """The others, and `HELD_OUT_A_CLASS` of each class."""
    shuffled = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(seed))
    out = torch.cat(
        [
            shuffled[pictures.labels[shuffled] == label][:HELD_OUT_A_CLASS]
            for label in range(len(CIFAR_CATEGORIES))
        ]
    )
    is_kept = torch.ones(len(pictures.labels), dtype=torch.bool)
    is_kept[out] = False
    return (
        Pictures(pictures.pixels[is_kept], pictures.labels[is_kept]),
        Pictures(pictures.pixels[out], pictures.labels[out]),
    )


class Training:
    """Owns network, average and optimiser, and the file that they are kept in."""

    def __init__(self, recipe: Recipe, images: int, state: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._recipe = recipe
        self._state = state
        self._steps_an_epoch = images // recipe.batch_images
        self._network = initialise(ResNeXt(known_specs()[BUNDLED])).to(self.device)
        self._network.to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(
            self._network, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True
        )
        self._optimiser = make_optimiser(self._network)
        self._epoch = 0

    def run(self, kept: Pictures, held_out: Pictures) -> None:
        self._resume()
        steps = self._recipe.epochs * self._steps_an_epoch
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            bar = progress.add_task("training", total=steps, rate="")
            while self._epoch < self._recipe.epochs:
                began = time.monotonic()
                for step, loss in enumerate(self._steps(kept), start=1):
                    done = self._epoch * self._steps_an_epoch + step
                    rate = step * self._recipe.batch_images / (time.monotonic() - began)
                    progress.update(
                        bar, completed=done, rate=f"{rate:,.0f} images/s, loss {loss:.3f}"
                    )
                self._epoch += 1
                self._keep()
                accuracy = measure(self.averaged, held_out, self.device)
                seconds = time.monotonic() - began
                progress.console.print(
                    f"epoch {self._epoch}: held-out accuracy {accuracy:.2%}, {seconds:.0f} s"
                )

    def _steps(self, kept: Pictures) -> Iterator[float]:
        """One epoch; the loss of each step."""
        self._network.train()
        generator = torch.Generator().manual_seed(self._recipe.seed * 1000 + self._epoch)
        order = torch.randperm(len(kept.labels), generator=generator)
        size = self._recipe.batch_images
        cycle, epochs_before = self._recipe.cycle_at(self._epoch)
        for step in range(self._steps_an_epoch):
            rows = order[step * size : (step + 1) * size]
            images = augment(kept.pixels[rows], generator).to(self.device)
            labels = kept.labels[rows].to(self.device)
            for group in self._optimiser.param_groups:
                group["lr"] = cycle.rate(
                    (epochs_before + step / self._steps_an_epoch) / cycle.epochs
                )
            with in_half(self.device):
                logits = self._network(prepare(images, cycle.side))
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
            loss.backward()
            self._optimiser.step()
            self._optimiser.zero_grad()
            self.averaged.update_parameters(self._network)
            yield loss.item()

    def _keep(self) -> None:
        part = self._state.with_suffix(".part")
        torch.save(
            {
                "recipe": repr(self._recipe),
                "epoch": self._epoch,
                "network": self._network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimiser": self._optimiser.state_dict(),
            },
            part,
        )
        part.replace(self._state)

    def _resume(self) -> None:
        if not self._state.exists():
            return
        state: dict[str, Any] = torch.load(self._state, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self._recipe):
            sys.exit(f"{self._state} is of another recipe: {state['recipe']}. Remove it to begin.")
        self._epoch = state["epoch"]
        self._network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimiser.load_state_dict(state["optimiser"])
        console.print(f"going on after epoch {self._epoch}")


def initialise(network: ResNeXt) -> ResNeXt:
    """He et al., 2015; each block begins as the way around it (Goyal et al., 2017)."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if name.endswith("bn3"):
            nn.init.zeros_(module.weight)
    return network


def make_optimiser(network: nn.Module) -> torch.optim.SGD:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM, nesterov=True)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 32, 32, 3) uint8 → the same: shifted by up to 4 pixels, and half of them mirrored."""
    n, side = len(pixels), pixels.shape[1]
    padded = functional.pad(pixels.permute(0, 3, 1, 2).float(), (PAD,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * PAD + 1, (2, n), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5  # noqa: PLR2004  (half of them)
    rows = top[:, None] + torch.arange(side)
    columns = left[:, None] + torch.arange(side)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    image = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].byte()


def prepare(pixels: Tensor, side: int = 32) -> Tensor:
    """(n, 32, 32, 3) uint8 → (n, 3, side, side) float32, normalised, channels last in memory."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    if side != pixels.shape[1]:
        images = functional.interpolate(
            images, size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
    return normalise(images, known_specs()[BUNDLED].preprocessing)


def in_half(device: torch.device) -> torch.autocast:
    enabled = device.type == "cuda" or computes_bf16()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def measure(network: nn.Module, pictures: Pictures, device: torch.device) -> float:
    """The share of images whose likeliest class is theirs."""
    network.eval()
    with torch.inference_mode(), in_half(device):
        found = [
            network(prepare(pixels.to(device))).cpu()
            for pixels in pictures.pixels.split(EVALUATION_IMAGES)
        ]
    return float((torch.cat(found).argmax(1) == pictures.labels).float().mean())


def save_weights(averaged: AveragedModel, path: Path) -> None:
    """Convolutions and the last layer in fp16, batch-norm, whose range is larger, in fp32."""
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).cpu().contiguous()
        for name, tensor in averaged.module.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, path)


def measure_file(weights: Path, pictures: Pictures) -> float:
    """Of the network in fp32, with the weights as they are kept."""
    network = ResNeXt(known_specs()[BUNDLED])
    tensors, _ = read_weights(weights)
    fill_network(network, tensors, weights)
    network.eval()
    with torch.inference_mode():
        found = [network(prepare(pixels)) for pixels in pictures.pixels.split(EVALUATION_IMAGES)]
    return float((torch.cat(found).argmax(1) == pictures.labels).float().mean())


if __name__ == "__main__":
    sys.exit(main())
