"""Finds the columns with the URIs, with the submitter's ids, and others to read beside them.

They are given by options or found by name. The readers of tables, JSON and Parquet all use this
module, so they report a missing column in the same words.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Place, quoted, shorten

URI_NAMES: Final = ("uri", "url", "image_uri", "image_url")
"""Names of a column with URIs if there is no `--column`. Upper and lower case do not matter."""
MOST_COLUMNS: Final = 1_000
"""Most columns that are kept if the user names none."""
_SHOWN_NAMES: Final = 20


@dataclass(frozen=True)
class Keep:
    """Columns that are read beside the URIs, and those that the lists had so far."""

    only: tuple[str, ...] = ()
    """Empty: all columns except those of the URIs and the ids."""
    found: dict[str, None] = field(default_factory=dict)
    """In the order in which they appeared."""

    @property
    def names(self) -> Sequence[str]:
        """The kept columns. Complete once all lists are read."""
        return self.only or list(self.found)

    def note(self, names: Iterable[str]) -> None:
        """Records the columns of a list.

        Raises:
            SourceError: there are too many columns.
        """
        self.found.update(dict.fromkeys(names))
        if len(self.found) > MOST_COLUMNS and not self.only:
            raise SourceError(
                f"The lists have more than {MOST_COLUMNS:,} columns. Name the columns to keep: "
                "--keep A,B"
            )

    def of(self, names: Sequence[str], own: Sequence[str | None], at: Place) -> list[str]:
        """Chooses a list's columns to read. `own` are the columns of the URIs and the ids.

        Raises:
            SourceError: a column is missing, or there are too many.
        """
        for name in self.only:
            if name not in names:
                raise missing(name, names, "--keep", at)
        found = list(self.only) or [name for name in names if name not in own]
        self.note(found)
        return found


@dataclass(frozen=True)
class Wanted:
    """What the user asked for by options."""

    column: str | None = None
    id_column: str | None = None
    keep: Keep | None = None
    """None: only the URIs and the ids are read."""
    unread: dict[str, None] = field(default_factory=dict, compare=False)
    """Some columns that no option names, in the order in which they appeared."""

    def __bool__(self) -> bool:
        """Whether it names a column of URIs or ids. Then `kind` expects a heading."""
        return self.column is not None or self.id_column is not None

    def check_none(self, at: Place, why: str, advice: str) -> None:
        """Checks that no columns were asked for, since the list has none.

        Raises:
            SourceError: an option names a column.
        """
        keeps = self.keep is not None and self.keep.only
        if self or keeps:
            options = "--column and --id-column" if self else "--keep"
            raise at.wrong(
                f"{why}, so there are no columns for {options}. "
                f"{advice}, or leave these options out."
            )


def choose(names: Sequence[str], wanted: Wanted, at: Place) -> str:
    """The name of the column with the URIs.

    Raises:
        SourceError: there is no such column, or more than one could be meant.
    """
    chosen = _choose(names, wanted, at)
    if wanted.id_column is None and wanted.keep is None and len(wanted.unread) < _SHOWN_NAMES:
        wanted.unread.update(dict.fromkeys(name for name in names if name != chosen))
    return chosen


def _choose(names: Sequence[str], wanted: Wanted, at: Place) -> str:
    if wanted.column is not None:
        if wanted.column not in names:
            raise missing(wanted.column, names, "--column", at)
        return wanted.column
    known = [name for name in names if name.strip().lower() in URI_NAMES]
    if len(known) == 1:
        return known[0]
    if not known and len(names) == 1:
        return names[0]
    what = f"has {_listed(known)}" if known else f"is named {', '.join(URI_NAMES)}"
    which = "more than one column" if known else "no column"
    raise at.wrong(
        f"{which} {what}. Columns: {_listed(names)}. Name the one with the URIs: --column NAME."
    )


def missing(name: str, names: Sequence[str], option: str, at: Place) -> SourceError:
    near = difflib.get_close_matches(name, names, 1)
    meant = f" Did you mean {quoted(near[0])}?" if near else ""
    return at.wrong(
        f"there is no column {quoted(name)}, which {option} names."
        f"{meant} Columns: {_listed(names)}."
    )


def check_once(names: Sequence[str], at: Place) -> None:
    """Checks that all column names differ.

    Raises:
        SourceError: two columns have the same name.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        what = shorten(twice[0]) if twice[0] else ""
        raise at.wrong(f"two columns are named {what!r}. Give each column its own name.")


def unread_columns(wanted: Wanted) -> str | None:
    """A sentence about the columns that are not read, for people. None: there are none."""
    if not wanted.unread:
        return None
    which = _listed(list(wanted.unread))
    return f"columns that are not read: {which}. `--id-column NAME` keeps one as your own ids"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(quoted(name) for name in names[:_SHOWN_NAMES])
    return f"{shown}, and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown
