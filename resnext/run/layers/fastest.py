"""Runs the network layer by layer or compiled, whichever is faster for a size of batch.

This is what `RESNEXT_ENGINE=auto` means on a GPU where `torch.compile` works. Both are measured
when a size first arrives, which is in `warm_up`. If compiling fails, only the layers are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

import torch
from torch import Tensor, nn

from resnext.run.faults import first_line, is_broken, is_out_of_memory
from resnext.run.layers.check import Wrong
from resnext.run.layers.choice import Candidate, Choice
from resnext.run.layers.network import ChosenNetwork

LAYERS: Final = "layers"
COMPILED: Final = "compiled"
# The permitted relative difference between the logits of both, for noise. In fp16 each differs from
# float32 by some 0.01. A wrong kernel differs far more.
_MARKS: Final = {torch.float16: 0.05, torch.bfloat16: 0.1, torch.float32: 1e-3}

logger = logging.getLogger(__name__)


class Fastest(nn.Module):
    """(N, crop, crop, 3) uint8 → (N, classes) float32."""

    def __init__(
        self,
        layers: ChosenNetwork,
        compile_: Callable[[], Callable[[Tensor], Tensor]],
        sizes: Collection[int],
    ) -> None:
        """`compile_` returns the network that compiles itself when one of the `sizes` arrives."""
        super().__init__()
        self.layers = layers
        self._compile = compile_
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._sizes = set(sizes)
        self._chosen: dict[int, str] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        images = len(pixels)
        if images not in self._chosen:
            self._chosen[images] = self._choose(pixels)
        if self._chosen[images] == COMPILED and self._compiled is not None:
            return self._compiled(pixels)
        logits: Tensor = self.layers(pixels)
        return logits

    def _choose(self, pixels: Tensor) -> str:
        """Chooses how batches of this size are computed.

        Raises:
            torch.OutOfMemoryError, RuntimeError: see `Chooser.choose`.
        """
        self.layers(pixels)  # first chooses the ways of the layers
        if len(pixels) not in self._sizes:
            return LAYERS
        known = self.layers.chooser.find_network(len(pixels))
        if known is not None and known.chosen is not None and known.chosen.name == LAYERS:
            return LAYERS
        noise = self._noise(pixels)
        try:
            compiled = self._try_compiled(noise)
        except Exception as error:  # noqa: BLE001  (after any error it runs uncompiled)
            self._give_up(error)
            return LAYERS
        choice = known or self._compare(noise, compiled)
        return LAYERS if choice.chosen is None else choice.chosen.name

    def _try_compiled(self, noise: Tensor) -> Candidate:
        """Compiles and checks the network, but does not time it.

        Raises:
            Exception: the network cannot be compiled.
        """
        if self._compiled is None:
            self._compiled = self._compile()
        try:
            error = _error(self._compiled(noise), self.layers(noise))
        except Exception as fault:
            if not is_out_of_memory(fault):
                raise
            return Candidate(name=COMPILED, fault=first_line(fault))
        mark = _MARKS[self.layers.chooser.dtype]
        if not error <= mark:  # it may be NaN
            wrong = Wrong(f"wrong: its logits differ by {error:.1e} from those of the layers")
            logger.warning("The compiled network is left out: %s", wrong)
            return Candidate(name=COMPILED, fault=str(wrong))
        return Candidate(name=COMPILED, error=error)

    def _compare(self, noise: Tensor, compiled: Candidate) -> Choice:
        timer = self.layers.chooser.timer
        assert self._compiled is not None  # noqa: S101  (tried before)
        run = self._compiled
        candidates = [
            Candidate(name=LAYERS, seconds=timer.seconds(lambda: self.layers(noise))),
            compiled,
        ]
        if compiled.fault is None:
            seconds = timer.seconds(lambda: run(noise))
            candidates[1] = Candidate(name=COMPILED, error=compiled.error, seconds=seconds)
        choice = Choice(shape=None, times=1, images=len(noise), candidates=tuple(candidates))
        self.layers.chooser.keep([choice])
        return choice

    def _noise(self, pixels: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(pixels))
        noise = torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=generator)
        return noise.to(pixels.device)

    def _give_up(self, error: Exception) -> None:
        """Stops compiling, for all sizes."""
        if is_broken(error):
            self.layers.chooser.timer.wait()  # raises if the error is persistent, as most are
        logger.warning(
            "The network cannot be compiled here and runs uncompiled: %s", first_line(error)
        )
        self._compiled = None
        self._sizes.clear()
        torch._dynamo.reset()  # noqa: SLF001  (the public way to drop compiled code)


def _error(made: Tensor, expected: Tensor) -> float:
    """The relative L2 error of the worst picture."""
    lengths = torch.linalg.vector_norm(expected, dim=1)
    worst = (torch.linalg.vector_norm(made - expected, dim=1) / lengths).max()
    return float(worst.item())
