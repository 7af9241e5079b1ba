"""What becomes of one image: what was fetched, and its classes or the reason why it has none.

Each image makes one of each of these: as tuples they cost a quarter of what frozen classes do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from contract.failure import Failure


class Provenance(NamedTuple):
    """What was fetched, as far as it came; it would take a second crawl to learn it later.

    In the order of `contract.chunks.results.COLUMNS`.
    """

    final_uri: str | None = None
    """Where redirects led; None if nowhere else."""
    bytes: int | None = None
    sha256: str | None = None
    """Of the bytes, in hex."""
    format: str | None = None
    """Pillow's name of the format: JPEG, PNG, …"""
    width: int | None = None
    height: int | None = None


STAGES: Final = (
    "fetch_s",  # from a fetch thread's taking the order to the whole body, or the failure
    "decode_wait_s",  # until its loader's one decoder was free; the hash is computed in it
    "decode_s",
    "batch_wait_s",  # from its arrival at the batcher to its batch's start
    "device_s",  # of its whole batch
    "batch_images",  # in its batch
)
LOADER_STAGES: Final = 3
"""Of these, the first so many are a loader's."""
UNKNOWN: Final = -1.0
"""It did not come to that stage, or nobody knows."""

Measured = tuple[float, ...]
"""What an image's stages took, in the order of `STAGES`: a loader's, or all. No class, which
would cost the worker's main process a microsecond an image.
"""
NOT_MEASURED: Final[Measured] = (UNKNOWN,) * LOADER_STAGES


class Prediction(NamedTuple):
    """The five likeliest classes, or all where the network has fewer."""

    class_ids: tuple[int, ...]
    scores: tuple[float, ...]
    """Softmax probabilities, highest first."""


class Outcome(NamedTuple):
    result: Prediction | Failure
    provenance: Provenance
    measured: Measured = NOT_MEASURED
