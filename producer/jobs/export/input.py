"""`results --with INPUT`: the submitted list's own columns, beside the answers.

The list is read once more, in its order, which is that of the positions. Each row's URI must be the
one that stands there, and in the end the digest of the whole list must be the one that `submit`
has kept. What does not fit is an error, and no file appears.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from contract.errors import UsageError
from producer.jobs.export.lists import Wanted, read_list
from producer.jobs.export.rows import Row
from producer.submit.digest import ImagesDigest

_ENTRIES_AT_ONCE: Final = 1_000


class Beside:
    """Gives each row what stands in the list at its position; rows come in the order of these."""

    def __init__(self, wanted: Wanted, digest: str | None, total: int) -> None:
        """`digest` is what submit has kept; None: by an older version, nothing."""
        found = read_list(wanted)
        self.names = found.names
        self._path = wanted.path
        self._entries = found.entries
        self._wanted_digest = digest
        self._total = total
        self._digest = ImagesDigest()

    def of(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """
        Raises:
            UsageError: another URI stands there.
        """
        return [self._at(row[0], row[1]) for row in rows]

    def _at(self, position: int, uri: str) -> Sequence[Any]:
        self._pass(position - self._digest.images)
        entry = next(self._entries, None)
        if entry is None or entry.uri != uri:
            there = "nothing" if entry is None else repr(entry.uri)
            raise UsageError(
                f"--with {self._path} is not the list of this job: image {position} is {uri!r}, "
                f"and there is {there} in its place. Give the list that was submitted."
            )
        self._digest.add([entry.uri], [entry.ref])
        return entry.values

    def finish(self) -> None:
        """
        Raises:
            UsageError: the whole list is another one than was submitted.
        """
        self._pass(None)
        if self._digest.images != self._total:
            raise UsageError(
                f"--with {self._path} has {self._digest.images:,} images, and the job "
                f"{self._total:,}: it is not the list of this job. Give the one that was submitted."
            )
        if self._wanted_digest not in (None, self._digest.hexdigest()):
            raise UsageError(
                f"--with {self._path} is not the list of this job: its URIs, ids or their order "
                "are others. Give the one that was submitted, with the same --column and "
                "--id-column."
            )

    def _pass(self, number: int | None) -> None:
        """Goes on by so many entries, or to the end."""
        while number is None or number > 0:
            some = list(islice(self._entries, min(number or _ENTRIES_AT_ONCE, _ENTRIES_AT_ONCE)))
            if not some:
                return
            self._digest.add([entry.uri for entry in some], [entry.ref for entry in some])
            number = None if number is None else number - len(some)
