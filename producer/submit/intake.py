"""Which of the sources' images are taken: valid ones, without duplicates, or a sample.

`submit` inserts the resulting groups. `--dry-run` counts them, and `results --with` reads them
again beside the answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contract.flow import LONGEST_CHUNK_IMAGES
from producer.submit.check import Findings, OnInvalid, check
from producer.submit.groups import GROUP_IMAGES, Group, gather
from producer.submit.sample import check_sample, sampled
from producer.submit.sources.entry import Image
from producer.submit.unique import without_duplicates


@dataclass(frozen=True, kw_only=True)
class Intake:
    """How images are taken, and what was found so far."""

    on_invalid: OnInvalid = OnInvalid.stop
    unique: bool = False
    """Take only the first image with each URI."""
    sample: int | None = None
    """Number of images to take at random. None: all."""
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        check_sample(self.sample)


class Limits(Protocol):
    """What the settings allow."""

    @property
    def file_roots(self) -> Sequence[Path]: ...
    @property
    def fetch_ports(self) -> Collection[int]: ...
    @property
    def object_stores(self) -> Collection[str]: ...
    @property
    def chunk_images(self) -> int | None: ...


def groups_of(images: Iterable[Image], limits: Limits, intake: Intake) -> Iterator[Group]:
    """The images that are taken, in groups for transactions.

    Raises:
        SourceError: a source cannot be read; or a line or URI is refused, with `stop`.
    """
    checked = check(
        images,
        limits.file_roots,
        limits.fetch_ports,
        limits.object_stores,
        on_invalid=intake.on_invalid,
        findings=intake.findings,
    )
    size = _images_per_group(limits.chunk_images)
    groups = gather(checked, size)
    if not intake.unique and intake.sample is None:
        return groups
    if intake.unique:
        groups = without_duplicates(groups, intake.findings)
    if intake.sample is not None:
        groups = sampled(_counted(groups, intake.findings), intake.sample)
    return gather(groups, size)


def _images_per_group(chunk_images: int | None) -> int:
    """A multiple of the chunk length."""
    chunk_images = chunk_images or LONGEST_CHUNK_IMAGES
    return max(1, GROUP_IMAGES // chunk_images) * chunk_images


def _counted(groups: Iterable[Group], findings: Findings) -> Iterator[Group]:
    for group in groups:
        findings.sampled_from += len(group.uris)
        yield group
