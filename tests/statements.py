"""Compiles every statement that a test executes for both databases, and checks it.

`tests/conftest.py` listens while each test runs. SQLAlchemy may render a condition between two
tables without the tables' names. It then compares a column with itself, which is true for every
row, and no database reports it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import ClauseElement, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import CompileError, SAWarning

DIALECTS: Final = (sqlite.dialect(), postgresql.dialect())
# `x = x`, `"x" = "x"`, `t.x = t.x`: the same name on both sides.
_ITSELF: Final = re.compile(
    r'(?<![\w."])((?:"?\w+"?\.)?"?[a-z_]\w*"?)\s*(?:=|<|>|<=|>=)\s*\1(?![\w."(])(?!\s*[-+*/|])'
)

_checked: set[Any] = set()


def faults_of(statement: ClauseElement) -> list[str]:
    """Returns what is wrong with the statement, as either database would receive it."""
    return [
        f"{dialect.name}: {found.group(0)!r} in {sql}"
        for dialect in DIALECTS
        if (sql := _compiled(statement, dialect)) is not None
        for found in _ITSELF.finditer(sql)
    ]


@contextmanager
def listening(faults: list[str]) -> Iterator[None]:
    """Adds to `faults` the faults of each statement that any engine executes in this context."""

    def check(_connection: Any, statement: Any, *_: Any) -> None:
        if not isinstance(statement, ClauseElement):
            return
        cached = statement._generate_cache_key()
        if cached is not None:
            if cached.key in _checked:
                return
            _checked.add(cached.key)
        faults.extend(faults_of(statement))

    event.listen(Engine, "before_execute", check)
    try:
        yield
    finally:
        event.remove(Engine, "before_execute", check)


def _compiled(statement: ClauseElement, dialect: Any) -> str | None:
    """Returns the SQL; None: only the other database has this statement."""
    with warnings.catch_warnings():
        # An INSERT is compiled here without its values.
        warnings.simplefilter("ignore", SAWarning)
        try:
            return str(statement.compile(dialect=dialect))
        except (CompileError, AttributeError):
            return None
