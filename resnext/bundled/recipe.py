"""What the training does at which step: the size of the pictures and the learning rate.

`Training` follows it; `train` makes one from the options of the command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple


class Phase(NamedTuple):
    """Consecutive epochs with pictures of one size."""

    epochs: int
    side: int
    """In pixels."""

    @classmethod
    def parse(cls, text: str) -> Phase:
        """Reads `EPOCHS:SIDE`.

        Raises:
            ValueError: the text is not two integers above 0.
        """
        epochs, side = (int(part) for part in text.split(":"))
        if epochs < 1 or side < 1:
            raise ValueError(text)
        return cls(epochs, side)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that affects the result. A kept state continues only with the same recipe."""

    phases: tuple[Phase, ...]
    batch_images: int
    peak_rate: float
    warm_up_epochs: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    held_out_per_class: int
    seed: int

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def side_at(self, epoch: int) -> int:
        """The pictures' side in an epoch, which counts from 0."""
        ends = accumulate(phase.epochs for phase in self.phases)
        return next(phase.side for phase, end in zip(self.phases, ends, strict=True) if epoch < end)

    def rate_at(self, epoch: float) -> float:
        """The learning rate: linear up to the peak, then a cosine down to 0."""
        if epoch < self.warm_up_epochs:
            return self.peak_rate * epoch / self.warm_up_epochs
        done = (epoch - self.warm_up_epochs) / (self.epochs - self.warm_up_epochs)
        return self.peak_rate * (1 + math.cos(math.pi * done)) / 2

    def pixels_left(self, epoch: int, step: int, steps_an_epoch: int) -> int:
        """The number of pixels in the remaining steps. The remaining time is proportional to it."""

        def areas() -> Iterator[int]:
            yield (steps_an_epoch - step) * self.side_at(epoch) ** 2
            for later in range(epoch + 1, self.epochs):
                yield steps_an_epoch * self.side_at(later) ** 2

        return self.batch_images * sum(areas()) if epoch < self.epochs else 0
