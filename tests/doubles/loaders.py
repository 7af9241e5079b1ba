"""Loaders that fetch nothing: the part of `worker.pool.pool.LoaderPool` that its callers use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worker.chunk.outcome import Provenance
from worker.pool.pool import Callback, Loaded, LoadFailed, PoolClosed

PICTURE = Loaded(np.zeros((2, 2, 3), np.uint8), Provenance(), owner=None, slot=0)  # type: ignore[arg-type]


@dataclass
class AnsweringLoaders:
    """Answers each URI with its entries in `answers`, one per try; the last one repeats."""

    answers: dict[str, list[Loaded | LoadFailed]] = field(default_factory=dict)
    tries: list[str] = field(default_factory=list)
    closed: bool = False

    def load(self, uri: str, done: Callback, *, root: Path | None = None) -> None:
        if self.closed:
            raise PoolClosed
        self.tries.append(uri)
        answers = self.answers.get(uri, [PICTURE])
        done(answers.pop(0) if len(answers) > 1 else answers[0])
