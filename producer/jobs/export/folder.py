"""Many parts by position in a folder, which an interrupted export resumes.

A part has the images of 100,000 positions and is named after the first of them. A small file beside
the parts records the job and options of the export and, for each part, how many of its images were
finished and when the last one finished. The next export skips parts for which SQL still gives the
same numbers. It writes the others again: missing parts, and parts whose images have finished or
were retried since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from contract.database.tables import results
from contract.database.waits import Database
from contract.errors import UsageError
from producer.jobs.export.formats import SUFFIXES
from producer.jobs.export.sinks import FolderTarget

POSITIONS_A_PART: Final = 100_000
RECORD: Final = "_resnextq.json"
"""The underscore makes programs that read a folder of Parquet skip this file."""


@dataclass(frozen=True)
class Part:
    name: str
    start: int
    stop: int
    is_done: bool
    """An earlier export has written this part, and it is still up to date."""


class Parts:
    """The parts of one export, and the record of those already written."""

    def __init__(
        self, engine: Engine, job_number: int, target: FolderTarget, export: dict[str, Any]
    ) -> None:
        """`export` describes the export: job, format and options.

        Raises:
            UsageError: the folder has an export with another description.
        """
        self._database = Database(engine)
        self._job_number = job_number
        self._place = target.place
        self._export = export
        self._signatures: dict[str, Any] = {}
        self._known: dict[str, Any] = self._read(target.shown)

    def all(self, start: int, total: int) -> Iterator[Part]:
        for first in range(start, total, POSITIONS_A_PART):
            stop = min(first + POSITIONS_A_PART, total)
            name = f"part-{first:012}{SUFFIXES[self._export['format']]}"
            # Read before the rows: an image that finishes meanwhile makes the next signature
            # differ.
            signature = self._database.read(self._signature_of(first, stop))
            self._signatures[name] = signature
            known = self._known.get(name)
            yield Part(name, first, stop, known is not None and known["of"] == signature)

    def note(self, part: Part, rows: int) -> None:
        """Records that the part has been written."""
        self._known[part.name] = {"rows": rows, "of": self._signatures[part.name]}
        self._write()

    def rows_of(self, part: Part) -> int:
        return int(self._known[part.name]["rows"])

    def _read(self, shown: str) -> dict[str, Any]:
        text = self._place.read(RECORD)
        if text is None:
            self._known = {}
            self._write()
            return self._known
        try:
            found = json.loads(text)
            known: dict[str, Any] = found["parts"]
            export = found["export"]
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"{shown} has a file {RECORD} that cannot be read. Give another folder, or remove "
                "this folder."
            ) from error
        if export != self._export:
            raise UsageError(
                f"{shown} has another export: {_told(export)}; this export is "
                f"{_told(self._export)}. Give another folder, or remove this folder."
            )
        return known

    def _write(self) -> None:
        text = json.dumps({"export": self._export, "parts": self._known}, indent=1)
        with self._place.writing(RECORD) as file:
            file.write(text.encode())

    def _signature_of(self, start: int, stop: int) -> Callable[[Connection], list[Any]]:
        statement = select(func.count(), func.max(results.c.settled_at)).where(
            results.c.job_number == self._job_number,
            results.c.position >= start,
            results.c.position < stop,
        )

        def read(connection: Connection) -> list[Any]:
            settled, latest = connection.execute(statement).one()
            return [settled, latest and latest.isoformat()]

        return read


def _told(export: object) -> str:
    if not isinstance(export, dict):
        return "unknown"
    said = (f"{name} {value}" for name, value in export.items() if value not in (None, [], ()))
    return ", ".join(said)
