"""One export: chosen images of a job, in a format, to a target. `resnextq results` calls it.

from contract.database.engine import connect_database
from contract.settings import load_settings
from producer.jobs.export.export import Export

settings = load_settings()
engine = connect_database(settings)
rows = Export(engine, job, form="parquet").write(target_of("out.parquet", settings))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

from sqlalchemy import Engine

from contract.database.engine import reading
from contract.errors import UsageError
from contract.record import Record
from producer.jobs.export import formats
from producer.jobs.export.choice import Choice
from producer.jobs.export.folder import Part, Parts
from producer.jobs.export.follow import Follower
from producer.jobs.export.input import Beside, Input
from producer.jobs.export.rows import Row, Vocabulary, record_of
from producer.jobs.export.sinks import FolderTarget, Target
from producer.jobs.export.window import POSITIONS, Windows
from producer.jobs.job import Job, read_job


@dataclass(frozen=True)
class Written:
    """What an export wrote."""

    rows: int
    parts: int = 0
    """Parts that were written."""
    kept: int = 0
    """Parts that were already there."""


def _nothing(_positions: int) -> None:
    pass


@dataclass(kw_only=True)
class Export:
    engine: Engine
    job: Job
    form: str
    """One of `formats.FORMATS`."""
    choice: Choice = field(default_factory=Choice)
    follow: bool = False
    given: Input | None = None
    """The submitted list, whose columns are written beside the answers."""
    advance: Callable[[int], object] = _nothing
    """Is called with the number of further positions done."""

    def __post_init__(self) -> None:
        formats.check_installed(self.form)
        if self.follow and self.given is not None:
            raise UsageError(
                "--with reads the input in its order, and --follow writes images as they finish. "
                "Leave one of them out."
            )

    def write(self, target: Target | FolderTarget) -> Written:
        """Writes the chosen images.

        Raises:
            UsageError: options exclude each other, a label is unknown, or the input differs.
            UnknownJobError: the job was deleted meanwhile.
            UnavailableError: the target cannot be written.
        """
        if isinstance(target, FolderTarget):
            return self._write_parts(target)
        with target.place.writing(target.name) as file:
            rows = self._write_file(file, self._rows(self.choice.start, self.job.total))
        return Written(rows)

    def records(self) -> Iterator[Record]:
        """The chosen images as records.

        Raises:
            UsageError, UnknownJobError: as for `write`.
        """
        for rows in self._rows(self.choice.start, self.job.total):
            for row in rows:
                yield record_of(row, self._vocabulary)
        self._check_there()

    def _write_file(self, file: BinaryIO, some_rows: Iterator[list[Row]]) -> int:
        names = () if self._beside is None else self._beside.names
        out = formats.begin(self.form, file, self._vocabulary, names)
        try:
            count = self._write_rows(out, file, some_rows)
            self._check_there()
            out.close()
        except BaseException:
            out.abandon()
            raise
        return count

    def _write_rows(
        self, out: formats.FormatFile, file: BinaryIO, some_rows: Iterator[list[Row]]
    ) -> int:
        count = 0
        for rows in some_rows:
            count += len(rows)
            if rows:
                out.write(rows, None if self._beside is None else self._beside.of(rows))
            if self.follow:
                file.flush()
        return count

    def _write_parts(self, target: FolderTarget) -> Written:
        if self.follow:
            raise UsageError(
                f"--follow writes images as they finish, but {target.shown} is a folder with "
                "parts by position. Give a file, or leave out --follow."
            )
        parts = Parts(self.engine, self.job.number, target, self._described())
        rows = written = kept = 0
        for part in parts.all(self.choice.start, self.job.total):
            if part.is_done:
                kept += 1
                self.advance(part.stop - part.start)
            else:
                written += 1
                parts.note(part, self._write_part(target, part))
            rows += parts.rows_of(part)
        return Written(rows, written, kept)

    def _write_part(self, target: FolderTarget, part: Part) -> int:
        with target.place.writing(part.name) as file:
            return self._write_file(file, self._rows(part.start, part.stop))

    def _check_there(self) -> None:
        """Checks that the job still exists. Jobs are marked before their first row is deleted, so
        all rows read before are complete.

        Raises:
            UnknownJobError: the job has been deleted meanwhile.
        """
        with reading(self.engine) as connection:
            read_job(connection, self.job.number)

    def _rows(self, start: int, stop: int) -> Iterator[list[Row]]:
        if self.follow:
            for rows in Follower(self.engine, self.job, self._windows, start).rows():
                yield rows
                self.advance(len(rows))
            return
        for first in range(start, stop, POSITIONS):
            last = min(first + POSITIONS, stop)
            yield self._windows.read(first, last)
            self.advance(last - first)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.engine, self.job)

    @cached_property
    def _windows(self) -> Windows:
        with reading(self.engine) as connection:
            where = self.choice.conditions(connection, self.job)
        more = formats.more_columns(self.form, self.engine.dialect.name)
        return Windows(self.engine, self.job.number, where, more)

    @cached_property
    def _beside(self) -> Beside | None:
        return None if self.given is None else Beside(self.engine, self.job, self.given)

    def _described(self) -> dict[str, Any]:
        """The description of this export in the folder's record."""
        choice = self.choice
        said: dict[str, Any] = {
            "job": self.job.id,
            "format": self.form,
            "only": choice.only,
            "label": list(choice.labels),
            "min_score": choice.min_score,
            "error": list(choice.errors),
            "after": choice.after,
        }
        if self._beside is not None:
            said["keep"] = list(self._beside.names)
        return said
