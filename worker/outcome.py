"""What becomes of one image: what was fetched, and its classes or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass

from contract.error_codes import Failure


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What was fetched, as far as it came; it would take a second crawl to learn it later."""

    final_uri: str | None = None
    """Where redirects led; None if nowhere else."""
    bytes: int | None = None
    sha256: str | None = None
    """Of the bytes, in hex."""
    format: str | None = None
    """Pillow's name of the format: JPEG, PNG, …"""
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Prediction:
    """The five likeliest classes, or all where the network has fewer."""

    class_ids: tuple[int, ...]
    scores: tuple[float, ...]
    """Softmax probabilities, highest first."""


@dataclass(frozen=True)
class Outcome:
    result: Prediction | Failure
    provenance: Provenance
