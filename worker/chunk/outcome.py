"""The outcome of one image: what was fetched, and its classes or an error.

Each image has one of each of these. They are tuples, which cost a quarter of frozen classes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from contract.failure import Failure


class Provenance(NamedTuple):
    """What is known about the fetched file. Learning it later would need a second crawl.

    The order is that of `contract.chunks.results.COLUMNS`.
    """

    final_uri: str | None = None
    """The URI to which redirects led, or None if it is the image's own."""
    bytes: int | None = None
    sha256: str | None = None
    """The hash of the bytes, in hex."""
    format: str | None = None
    """Pillow's name for the format: JPEG, PNG, …"""
    width: int | None = None
    height: int | None = None


STAGES: Final = (
    "fetch_s",  # from the start of the fetch to the complete body, or the failure
    "decode_wait_s",  # until its loader's only decoder is free; the hash is computed meanwhile
    "decode_s",
    "batch_wait_s",  # from its arrival at the batcher to its batch's start
    "device_s",  # of its whole batch
    "batch_images",  # in its batch
)
LOADER_STAGES: Final = 3
"""The number of stages that happen in a loader, which come first."""
UNKNOWN: Final = -1.0
"""The image did not reach this stage, or the time is not known."""

Measured = tuple[float, ...]
"""An image's values in the order of `STAGES`: those of the loader, or all. It is not a class, which
would cost the worker's main process a microsecond per image.
"""
NOT_MEASURED: Final[Measured] = (UNKNOWN,) * LOADER_STAGES


class Prediction(NamedTuple):
    """The five most likely classes, or all classes if the network has fewer."""

    class_ids: tuple[int, ...]
    scores: tuple[float, ...]
    """Softmax probabilities, highest first."""


class Outcome(NamedTuple):
    result: Prediction | Failure
    provenance: Provenance
    measured: Measured = NOT_MEASURED
