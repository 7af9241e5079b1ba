"""SQL → rows: reads a window of positions at once, each in a short transaction.

Memory does not grow with the job, and a reader that pauses holds nothing in the database. The
driver's own cursor returns plain tuples, PostgreSQL's in binary form: SQLAlchemy's rows would take
three times as long. Reads wait while the database is unavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg.pq import Format
from sqlalchemy import ColumnElement, Connection, Engine, bindparam, event, select
from sqlalchemy.exc import OperationalError

from contract.database.tables import results
from contract.database.waits import Database
from producer.jobs.export.rows import COLUMNS, Row

POSITIONS: Final = 10_000
"""A window takes some ten megabytes of memory, and is large enough that the queries cost little."""


class Windows:
    """Reads the chosen images of one job. The statement is built once."""

    def __init__(
        self,
        engine: Engine,
        job_number: int,
        where: Sequence[ColumnElement[bool]] = (),
        more: Sequence[ColumnElement[Any]] = (),
    ) -> None:
        """`more` columns follow those of `rows.COLUMNS`."""
        self._database = Database(engine)
        statement = (
            select(*COLUMNS, *more)
            .where(
                results.c.job_number == job_number,
                results.c.position >= bindparam("start", 0),
                results.c.position < bindparam("stop", 0),
                *where,
            )
            .order_by(results.c.position)
        )
        compiled = statement.compile(
            dialect=engine.dialect, compile_kwargs={"render_postcompile": True}
        )
        self._sql = compiled.string
        self._parameters = dict(compiled.params)
        self._order: Sequence[str] | None = compiled.positiontup
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error

    def read(self, start: int, stop: int) -> list[Row]:
        """The rows of these positions, in their order."""
        self._parameters |= {"start": start, "stop": stop}
        return self._database.read(self._fetch)

    def _fetch(self, connection: Connection) -> list[Row]:
        if self._order is None:
            parameters: Any = self._parameters
            event.listen(connection, "before_cursor_execute", _ask_for_binary)
        else:
            parameters = tuple(self._parameters[name] for name in self._order)
        with connection.exec_driver_sql(self._sql, parameters) as result:
            try:
                rows = list[Row](result.cursor.fetchall())
            except self._driver_error as error:  # SQLite reads while rows are fetched
                raise OperationalError(self._sql, None, error) from error
        return rows


def _ask_for_binary(_connection: object, cursor: Any, *_: object) -> None:  # noqa: ANN401  (psycopg's)
    cursor.format = Format.BINARY
