"""A batch in the classifier: the runs of its images, and the times of its stages.

`batcher` fills batches in sequence, and settles each when it has its answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from contract.failure import Failure
from resnext.picture.resample import Pixels
from resnext.predictions import Predictions
from worker.chunk.outcome import Outcome, Prediction
from worker.chunk.run import ChunkRun
from worker.pool.pool import Loaded

if TYPE_CHECKING:  # torch takes seconds to load; mistakes should be reported before that
    from resnext.classifier import Pending


class Arrived(NamedTuple):
    """Images of one run that arrived together and wait for their batch."""

    run: ChunkRun
    images: list[tuple[int, Loaded]]
    """Position and image."""
    came_at: float

    def split(self, number: int) -> tuple[Arrived, Arrived]:
        """Returns the first `number` images, and the rest."""
        return self._replace(images=self.images[:number]), self._replace(
            images=self.images[number:]
        )


@dataclass(eq=False)
class Batch:
    """The parts of a batch. Once it has `pending`, the classifier computes it."""

    parts: list[Arrived] = field(default_factory=list)
    images: int = 0
    pixels: Pixels | None = None
    """The pixels of a started batch, in the classifier's `room`. They are valid while the
    classifier's `overwrites` does not change."""
    overwrites: int = 0
    pending: Pending | None = None
    started_at: float = 0.0
    done_at: float | None = None
    """The time at which it was first found to be done."""

    def add(self, part: Arrived) -> None:
        self.parts.append(part)
        self.images += len(part.images)

    @property
    def began_at(self) -> float:
        return self.parts[0].came_at

    @property
    def runs(self) -> set[ChunkRun]:
        return {part.run for part in self.parts}

    def is_done(self) -> bool:
        if self.done_at is None and self.pending is not None and self.pending.is_done():
            self.done_at = time.monotonic()
        return self.done_at is not None

    def result(self) -> Predictions:
        """Waits for the predictions."""
        assert self.pending is not None  # noqa: S101  (started before)
        return self.pending.result()

    def settle(self, answers: list[Prediction | Failure], device_s: float) -> None:
        """Calls each run once, with the outcomes of all its images."""
        if len(answers) != self.images:
            raise ValueError(f"{len(answers)} answers for {self.images} images")
        outcomes: dict[ChunkRun, dict[int, Outcome]] = {run: {} for run in self.runs}
        left = iter(answers)
        for part in self.parts:
            last_stages = (self.started_at - part.came_at, device_s, self.images)
            of_run = outcomes[part.run]
            for (position, loaded), answer in zip(part.images, left, strict=False):
                of_run[position] = Outcome(answer, loaded.provenance, loaded.measured + last_stages)
        for run, settled in outcomes.items():
            run.settle(settled)
