"""Finds the fastest right way to compute each layer, on the device that will compute it.

`ChosenNetwork` asks when a size of batch first arrives, and `doctor --device` asks for all sizes.
Earlier results are read from disk; see `store`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

import torch

from resnext.run.faults import first_line, is_broken, is_out_of_memory
from resnext.run.layers.check import check
from resnext.run.layers.choice import Candidate, Choice
from resnext.run.layers.kind import Kind
from resnext.run.layers.sample import Sample, draw
from resnext.run.layers.shape import ConvShape
from resnext.run.layers.store import Store
from resnext.run.layers.timer import Timer
from resnext.run.plans import timing_every_plan

logger = logging.getLogger(__name__)


class Chooser:
    """Owns the results for each layer. `choose` may be called for any size of batch."""

    def __init__(  # noqa: PLR0913  (what is measured, on what, by what, and where it is kept)
        self,
        shapes: Mapping[ConvShape, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        kinds: Sequence[Kind],
        timer: Timer,
        store: Store,
    ) -> None:
        """`shapes` says how often each shape occurs in the network."""
        self.shapes = dict(shapes)
        self.dtype = dtype
        self.device = device
        self.kinds = {kind.name: kind for kind in kinds}
        self.timer = timer
        self.store = store
        self._told = set[str]()

    def known(self, images: int) -> list[Choice] | None:
        """Like `choose`, but returns None if something must be measured."""
        found = [self.store.find(shape, images) for shape in self.shapes]
        known = [one for one in found if one is not None and self._has(one)]
        return known if len(known) == len(found) else None

    def choose(self, images: int) -> list[Choice]:
        """Decides how each layer is computed in batches of this size.

        Raises:
            torch.OutOfMemoryError: no way to compute a layer fits into the memory.
            RuntimeError: no way to compute a layer works, or the device is broken.
        """
        if (known := self.known(images)) is not None:
            return known
        began = time.monotonic()
        chosen = [self._measure(shape, images) for shape in self.shapes]
        self.keep(chosen)
        logger.info(
            "Measured the ways to compute batches of %d: %d layers in %.0f s.",
            images,
            len(chosen),
            time.monotonic() - began,
        )
        return chosen

    def keep(self, choices: Iterable[Choice]) -> None:
        self.store.add(choices)

    def kind_of(self, choice: Choice) -> Kind:
        """The kind of the chosen candidate."""
        assert choice.chosen is not None  # noqa: S101  (see `choose`)
        return self.kinds[choice.chosen.name]

    def find_network(self, images: int) -> Choice | None:
        """The result for the network as a whole, if it is known."""
        return self.store.find(None, images)

    def _has(self, choice: Choice) -> bool:
        return choice.chosen is not None and choice.chosen.name in self.kinds

    def _measure(self, shape: ConvShape, images: int) -> Choice:
        sample = draw(shape, images, self.dtype, self.device)
        candidates = []
        memory: Exception | None = None
        for kind in self.kinds.values():
            if not kind.suits(shape, self.device):
                continue
            try:
                candidates.append(self._try(kind, shape, sample))
            except Exception as error:  # noqa: BLE001  (a candidate with any error is left out)
                if is_broken(error):
                    self.timer.wait()  # raises if the error is persistent, as most are
                if is_out_of_memory(error):
                    memory = error
                candidates.append(Candidate(name=kind.name, fault=first_line(error)))
                self._tell(shape, candidates[-1])
        choice = Choice(
            shape=shape, times=self.shapes[shape], images=images, candidates=tuple(candidates)
        )
        if choice.chosen is None:
            faults = "; ".join(f"{one.name}: {one.fault}" for one in candidates)
            kind_of_error = RuntimeError if memory is None else torch.OutOfMemoryError
            raise kind_of_error(f"No way to compute {shape} for {images} pictures works: {faults}")
        return choice

    def _try(self, kind: Kind, shape: ConvShape, sample: Sample) -> Candidate:
        with timing_every_plan():
            run = kind.build(shape, sample.weight, sample.bias)
            error = check(run, sample)
            # A candidate may overwrite the shortcut, which the check of the next one needs.
            around = None if sample.around is None else sample.around.clone()
            seconds = self.timer.seconds(lambda: run(sample.x, around))
        return Candidate(name=kind.name, seconds=seconds, error=error)

    def _tell(self, shape: ConvShape, candidate: Candidate) -> None:
        """Warns about a candidate, but only once per kind, because a kind often fails on many
        layers.
        """
        if candidate.name not in self._told:
            self._told.add(candidate.name)
            logger.warning(
                "%r is left out for %s: %s. `resnextq doctor --device` lists all such cases.",
                candidate.name,
                shape,
                candidate.fault,
            )
