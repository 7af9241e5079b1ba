"""Records of the ways to compute a layer, and of the chosen way.

`choose` makes these records, `store` keeps them, and `doctor` and `make gpu-check` print them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resnext.run.layers.shape import ConvShape


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to compute a layer, with its measurements on the device."""

    name: str
    """The name of the kind: `cudnn`, `cudnn padded`, `matrix`, `triton`, `one pass` or `passes`.
    For a whole network `layers` or `compiled`."""
    seconds: float | None = None
    """The seconds of one run, replayed from a CUDA graph."""
    error: float | None = None
    """The relative L2 error of the worst picture, compared with float32."""
    fault: str | None = None
    """Why it is left out: it failed, or its answers are wrong."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How layers of one shape are computed in batches of one size."""

    shape: ConvShape | None
    """None for the whole network."""
    times: int
    """How many layers of the network have this shape."""
    images: int
    """The images in a batch."""
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The fastest candidate that is right; None if all have failed."""
        return fastest(self.candidates)

    @property
    def subject(self) -> str:
        return "the whole network" if self.shape is None else str(self.shape)


def fastest(candidates: Iterable[Candidate]) -> Candidate | None:
    timed = [one for one in candidates if one.fault is None and one.seconds is not None]
    return min(timed, key=lambda one: one.seconds or 0.0, default=None)
