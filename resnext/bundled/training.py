"""One training: its steps, and the state file from which an interrupted training continues.

`train` makes a `Training` and runs it. Only the first weights come from torch's global random
numbers. Order, crops and colours of a step follow from seed, epoch and step. So an interrupted
training gives the same weights as an uninterrupted one, to the bit on a CPU.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from resnext.bundled.pictures import Look, Pictures
from resnext.bundled.recipe import Recipe
from resnext.errors import WeightsError
from resnext.network import ResNeXt
from resnext.run.precision import computes_bf16
from resnext.spec.model import ModelSpec
from resnext.weights.random import normalise

MOMENTUM: Final = 0.9
EVALUATION_IMAGES: Final = 250
STATISTICS_IMAGES: Final = 5120
"""How many pictures the averaged network's batch-norms are measured on."""
# A step that a stopped process slept in tells nothing: the median of so many does.
TIMED_STEPS: Final = 201
# Reading a loss waits for the device, so only every so many steps read it.
STEPS_A_READING: Final = 20


class Accuracy(NamedTuple):
    """Shares of the pictures with right answers, 0 … 1."""

    top1: float
    top5: float

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}"


class Progress(NamedTuple):
    """The report of a step."""

    epoch: int
    """Counts from 0."""
    done: int
    """The number of steps in all epochs."""
    loss: float
    """The loss of a recent batch."""
    images_per_s: float
    seconds_left: float


@dataclass
class Pace:
    """Measures the time per pixel. Pauses of the machine do not affect it."""

    seconds_a_pixel: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED_STEPS))

    def add(self, seconds: float, pixels: int) -> None:
        self.seconds_a_pixel.append(seconds / pixels)

    def seconds(self, pixels: int) -> float:
        """The time for this many pixels."""
        return statistics.median(self.seconds_a_pixel) * pixels


class Training:
    """Owns the network, its average, the optimiser, the place in the recipe, and the state file."""

    def __init__(
        self, recipe: Recipe, spec: ModelSpec, kept: Pictures, rows: Tensor, state: Path
    ) -> None:
        """
        Args:
            recipe: the recipe.
            spec: the network's spec.
            kept: all pictures.
            rows: the rows to train on.
            state: the file for the state. It need not exist.
        """
        torch.manual_seed(recipe.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.epoch = 0
        self.step = 0
        self.steps_an_epoch = len(rows) // recipe.batch_images
        self._recipe = recipe
        self._preprocessing = spec.preprocessing
        self._pictures, self._rows = kept, rows
        self._state = state
        self._network = _initialise(ResNeXt(spec)).to(self.device)
        self._network.to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(
            self._network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )
        self._optimiser = _make_optimiser(self._network, recipe.weight_decay)
        self._pace = Pace()

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps_an_epoch + self.step

    @property
    def is_done(self) -> bool:
        return self.epoch == self._recipe.epochs

    def run_epoch(self) -> Iterator[Progress]:
        """Trains to the end of the epoch. The state may be kept after any step."""
        order = self._rows[torch.randperm(len(self._rows), generator=self._generator(-1))]
        self._network.train()
        loss, size = float("nan"), self._recipe.batch_images
        for step in range(self.step, self.steps_an_epoch):
            began = time.monotonic()
            found = self._train(order[step * size : (step + 1) * size], step)
            if step % STEPS_A_READING == 0:
                loss = found.item()
            area = self._recipe.side_at(self.epoch) ** 2
            self._pace.add(time.monotonic() - began, size * area)
            epoch = self.epoch
            self._move_on()
            yield Progress(
                epoch, self.steps_done, loss, 1 / self._pace.seconds(area), self._seconds_left()
            )

    def _train(self, rows: Tensor, step: int) -> Tensor:
        pictures, labels = self._pictures.take(rows, self.device)
        look = Look.draw(len(rows), self._generator(step))
        crops = look.crop(pictures, self._recipe.side_at(self.epoch))
        crops = look.colour(normalise(crops, self._preprocessing))
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.rate_at(self.epoch + step / self.steps_an_epoch)
        with in_bf16(self.device):
            logits = self._network(crops.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self._recipe.label_smoothing
        )
        loss.backward()
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.averaged.update_parameters(self._network)
        return loss.detach()

    def _generator(self, step: int) -> torch.Generator:
        """The generator for a step. Step -1 is for the order of an epoch."""
        place = self.epoch * (self.steps_an_epoch + 1) + step + 1
        return torch.Generator().manual_seed(self._recipe.seed * 10**9 + place)

    def _move_on(self) -> None:
        self.step += 1
        if self.step == self.steps_an_epoch:
            self.epoch, self.step = self.epoch + 1, 0

    def _seconds_left(self) -> float:
        return self._pace.seconds(
            self._recipe.pixels_left(self.epoch, self.step, self.steps_an_epoch)
        )

    def keep(self) -> None:
        """Writes the state. If it is killed, the file has either this state or the last one."""
        part = self._state.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(
                {
                    "recipe": repr(self._recipe),
                    "epoch": self.epoch,
                    "step": self.step,
                    "network": self._network.state_dict(),
                    "averaged": self.averaged.state_dict(),
                    "optimiser": self._optimiser.state_dict(),
                },
                file,
            )
            os.fsync(file.fileno())
        part.replace(self._state)

    def resume(self) -> bool:
        """Continues from the kept state.

        Returns:
            Whether there was a state.

        Raises:
            WeightsError: the state has another recipe.
        """
        if not self._state.exists():
            return False
        state: dict[str, Any] = torch.load(self._state, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self._recipe):
            raise WeightsError(
                f"The state {self._state} is of another recipe: {state['recipe']}. "
                "Use the same options again, or delete it to start again."
            )
        self.epoch, self.step = state["epoch"], state["step"]
        self._network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimiser.load_state_dict(state["optimiser"])
        return True

    def finished_network(self) -> nn.Module:
        """Returns a copy of the averaged network with batch-norm statistics of its own.

        The average of the statistics does not fit the average of the weights. So they are measured
        again, on whole training pictures. The training itself does not change.
        """
        network = copy.deepcopy(self.averaged.module)
        with in_bf16(self.device):
            update_bn(self._plain_pictures(), network)
        return network.eval()

    def _plain_pictures(self) -> Iterator[Tensor]:
        """Yields the same training pictures each time, neither cropped nor coloured."""
        generator = torch.Generator().manual_seed(self._recipe.seed)
        order = torch.randperm(len(self._rows), generator=generator)[:STATISTICS_IMAGES]
        for some in self._rows[order].split(EVALUATION_IMAGES):
            pictures, _ = self._pictures.take(some, self.device)
            yield normalise(pictures, self._preprocessing)

    def measure(self, rows: Tensor) -> Accuracy:
        """Measures the averaged network on rows that it was not trained on."""
        network = self.finished_network()

        def classify(pictures: Tensor) -> Tensor:
            with in_bf16(self.device):
                logits: Tensor = network(normalise(pictures, self._preprocessing))
            return logits

        return measure(classify, self._pictures, rows, self.device)


def _initialise(network: ResNeXt) -> ResNeXt:
    """Initialises as in He et al., 2015. Each block starts as its shortcut (Goyal et al., 2017)."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if name.endswith("bn3"):
            nn.init.zeros_(module.weight)
    return network


def _make_optimiser(network: nn.Module, weight_decay: float) -> torch.optim.SGD:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM, nesterov=True)


def in_bf16(device: torch.device) -> torch.autocast:
    """Computes in bf16 if the device supports it in hardware."""
    enabled = device.type == "cuda" or computes_bf16()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def measure(
    classify: Callable[[Tensor], Tensor], pictures: Pictures, rows: Tensor, device: torch.device
) -> Accuracy:
    """Counts the right answers.

    Args:
        classify: (n, 3, 64, 64) float32 in 0 … 1 → (n, classes) logits.
        pictures: the pictures.
        rows: the rows to measure.
        device: the device on which `classify` computes.
    """
    top1 = top5 = 0
    with torch.inference_mode():
        for some in rows.split(EVALUATION_IMAGES):
            images, labels = pictures.take(some, device)
            is_right = classify(images).float().topk(5).indices == labels[:, None]
            top1 += int(is_right[:, 0].sum())
            top5 += int(is_right.any(1).sum())
    return Accuracy(top1 / len(rows), top5 / len(rows))
