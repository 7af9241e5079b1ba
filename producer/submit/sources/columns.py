"""Which column holds the URIs, and which the submitter's ids: as options say, or by its name.

The readers of tables, JSON and Parquet ask here, so that a missing column is told alike.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Place, shorten

URI_NAMES: Final = ("uri", "url", "image_uri", "image_url")
"""Without `--column`, a column of one of these names has the URIs; case does not count."""
_SHOWN_NAMES: Final = 20


@dataclass(frozen=True)
class Wanted:
    """What the user has said of the columns."""

    column: str | None = None
    id_column: str | None = None

    def __bool__(self) -> bool:
        return self.column is not None or self.id_column is not None


def choose(names: Sequence[str], wanted: Wanted, at: Place) -> str:
    """The name of the column with the URIs.

    Raises:
        SourceError: there is no such column, or it cannot be told which one is meant.
    """
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
    raise SourceError(
        f"{at}: {which} {what}. Columns: {_listed(names)}. "
        "Name the one with the URIs: --column NAME."
    )


def missing(name: str, names: Sequence[str], option: str, at: Place) -> SourceError:
    near = difflib.get_close_matches(name, names, 1)
    meant = f" Did you mean {shorten(near[0])!r}?" if near else ""
    return SourceError(
        f"{at}: there is no column {shorten(name)!r}, which {option} names."
        f"{meant} Columns: {_listed(names)}."
    )


def check_once(names: Sequence[str], at: Place) -> None:
    """
    Raises:
        SourceError: two columns have one name.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        what = shorten(twice[0]) if twice[0] else ""
        raise SourceError(
            f"{at}: two columns are named {what!r}. Give each column a name of its own."
        )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(repr(shorten(name)) for name in names[:_SHOWN_NAMES])
    return f"{shown}, and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown
