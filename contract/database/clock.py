"""Time by the database's clock alone, because machines' clocks differ and leases compare times.

`db_now()` is a SQL expression, and `db_now(-30)` is half a minute earlier. With a `bindparam`, the
statement gets the seconds when it is executed. Columns of type `UtcDateTime` store its values and
return aware datetimes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BindParameter, DateTime, Float, literal
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime: `timestamptz` on PostgreSQL, ISO text in UTC on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and dialect.name == "sqlite":
            return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801  (it reads as a SQL function)
    """The database's clock plus `shift_s` seconds. It advances within a transaction."""

    name = "db_now"
    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, shift_s: float | BindParameter[float] = 0.0) -> None:
        if not isinstance(shift_s, BindParameter):
            shift_s = literal(float(shift_s), Float())
        super().__init__(shift_s)


def iso(moment: datetime) -> str:
    """A moment as text for JSON: `2026-01-31T12:00:00.000Z`."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@compiles(db_now, "postgresql")
def _postgresql(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    shift = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => {shift}))"


@compiles(db_now, "sqlite")
def _sqlite(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    # SQLAlchemy's SQLite text has six digits after the point, %f gives three.
    shift = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({shift}) || ' seconds')"
