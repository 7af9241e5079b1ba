"""`results --with INPUT`: reads the submitted list again and adds its columns to the answers.

The readers are those of `submit`. A first pass finds out how the job was made from the input: which
images `--on-invalid`, `--unique` and `--sample` left out. The digest that `submit` stored shows
which combination is right. A second pass reads the input in step with the rows of the export. If no
combination matches, the export fails before it writes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, repeat
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import jobs, results
from contract.errors import UsageError
from contract.objects import Stores
from contract.settings import Settings
from producer.jobs.export.rows import Row
from producer.jobs.export.window import POSITIONS
from producer.jobs.job import Job
from producer.submit.check import Failed, OnInvalid, check
from producer.submit.digest import ImagesDigest
from producer.submit.groups import Group
from producer.submit.intake import Intake, groups_of
from producer.submit.sources.columns import Keep, Wanted
from producer.submit.sources.entry import Entry, Image, Run, Values, quoted, shorten
from producer.submit.sources.read import STANDARD_INPUT, Reading, read_runs

_SHOWN_SOURCES: Final = 3
_NOTHING: Final[Values] = {}


@dataclass(frozen=True)
class Input:
    """The sources that were submitted, according to the user, with their columns as in `submit`.

    Raises:
        UsageError: a source cannot be read twice.
    """

    sources: Sequence[str]
    settings: Settings
    column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    """Columns to keep. Empty: all except those of the URIs and the ids."""

    def __post_init__(self) -> None:
        if STANDARD_INPUT in self.sources:
            raise UsageError(
                "--with reads its input twice, but - can be read only once. Name a file."
            )

    def __str__(self) -> str:
        shown = [shorten(source) for source in self.sources[:_SHOWN_SOURCES]]
        return ", ".join([*shown, *["…"] * (len(self.sources) > _SHOWN_SOURCES)])

    def images(self, keep: Keep) -> Iterator[Image]:
        """The images of the sources, in order.

        Raises:
            SourceError: a source cannot be read, or lacks a column.
        """
        wanted = Wanted(self.column, self.id_column, keep)
        return read_runs(self.sources, reading=Reading(wanted, Stores.of(self.settings)))

    def groups(self, keep: Keep, intake: Intake) -> Iterator[Group]:
        return groups_of(self.images(keep), self.settings, intake)

    def entries(self) -> Iterator[Entry | Failed]:
        """The entries with their places, including invalid lines."""
        at = self.settings
        limits = (at.file_roots, at.fetch_ports, at.object_stores)
        for image in check(self.images(Keep()), *limits, on_invalid=OnInvalid.record):
            yield from image.entries() if isinstance(image, Run) else (image,)


class Beside:
    """Finds the input's values for each row of an export, by position."""

    def __init__(self, engine: Engine, job: Job, given: Input) -> None:
        """Checks the input against the job.

        Raises:
            UsageError: the input is not what was submitted.
            SourceError: the input cannot be read, or lacks a column.
        """
        self._given = given
        keep = Keep(given.keep)
        intake = _Submitted.of(engine, job).taken_from(given, keep)
        self.names = keep.names
        self._rows = _rows_of(given.groups(keep, intake))
        self._position = 0

    def of(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """The values of the kept columns. Rows must come in the order of their positions.

        Raises:
            UsageError: the input has another URI at a position.
        """
        return [self._at(row[0], row[1]) for row in rows]

    def _at(self, position: int, uri: str) -> Sequence[Any]:
        passed = position - self._position
        self._position = position + 1
        there, values = next(islice(self._rows, passed, None), (None, None))
        if there != uri:
            raise UsageError(
                f"--with {self._given} has changed since it was checked: image {position} was "
                f"{uri!r}. Run the same command again."
            )
        known = values or _NOTHING
        return [known.get(name) for name in self.names]


def _rows_of(groups: Iterable[Group]) -> Iterator[tuple[str, Values | None]]:
    for group in groups:
        yield from zip(group.uris, chain(group.values, repeat(None)), strict=False)


class _Submitted(NamedTuple):
    """What `submit` stored about a job's images."""

    engine: Engine
    job: Job
    digest: str | None
    """None: submitted by an earlier version, which stored none."""
    is_sample: bool

    @classmethod
    def of(cls, engine: Engine, job: Job) -> _Submitted:
        columns = (jobs.c.images_digest, jobs.c.sampled_from)
        with reading(engine) as connection:
            row = connection.execute(select(*columns).where(jobs.c.number == job.number)).one()
        return cls(engine, job, row.images_digest, row.sampled_from is not None)

    def taken_from(self, given: Input, keep: Keep) -> Intake:
        """Finds out how the job's images were taken from the input.

        Raises:
            UsageError: they were not taken from this input.
        """
        images = 0
        sample = self.job.total if self.is_sample else None
        for unique in (False, True):
            for on_invalid in (OnInvalid.record, OnInvalid.skip):
                intake = Intake(on_invalid=on_invalid, unique=unique, sample=sample)
                digest = _digest_of(given.groups(keep, intake))
                if digest.images == self.job.total and self._fits(digest):
                    return Intake(on_invalid=on_invalid, unique=unique, sample=sample)
                images = images or digest.images
                if not intake.findings.refused:
                    break  # no line to skip
            if images <= self.job.total and not self.is_sample:
                break  # no image to leave out
        raise UsageError(self._difference(given, images))

    def _fits(self, digest: ImagesDigest) -> bool:
        return self.digest in (None, digest.hexdigest())

    def _difference(self, given: Input, images: int) -> str:
        start = f"--with {given} is not what was submitted as job {self.job.id}: "
        advice = "Give the same sources in the same order, with the same --column and --id-column."
        if self.is_sample:
            return f"{start}a sample of it has other images. {advice}"
        settled = _Settled(self.engine, self.job)
        for position, image in zip(count(), given.entries(), strict=False):
            uri = settled.uri(position)
            if uri is not None and uri != image.uri:
                place = f" ({image.place})" if isinstance(image, Entry) and image.line else ""
                return (
                    f"{start}image {position} is {quoted(uri)} in the job, but "
                    f"{quoted(image.uri)} in the input{place}. {advice}"
                )
        if images != self.job.total:
            return f"{start}it has {images:,} images, but the job has {self.job.total:,}. {advice}"
        return f"{start}its URIs, ids or their order differ. {advice}"


def _digest_of(groups: Iterable[Group]) -> ImagesDigest:
    digest = ImagesDigest()
    for group in groups:
        digest.add(group.uris, group.refs)
    return digest


class _Settled:
    """URIs of finished images, read some thousand at once."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job
        self._first = -POSITIONS
        self._uris: dict[int, str] = {}

    def uri(self, position: int) -> str | None:
        """The URI at this position. None: the image is not finished, or there is no such
        position.
        """
        if not self._first <= position < self._first + POSITIONS:
            self._first = position
            self._uris = self._read(position, position + POSITIONS)
        return self._uris.get(position)

    def _read(self, start: int, stop: int) -> dict[int, str]:
        statement = select(results.c.position, results.c.uri).where(
            results.c.job_number == self._job.number,
            results.c.position >= start,
            results.c.position < stop,
        )
        with reading(self._engine) as connection:
            return {row.position: row.uri for row in connection.execute(statement)}
