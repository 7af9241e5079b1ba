"""The commands below `db`: upgrade."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import UnavailableError
from producer.cli.environment import read_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine


def upgrade() -> None:
    """Upgrade the database's schema. An SQLite file is created if it does not exist.

    Settings: RESNEXT_DATABASE_URL.

    Example: resnextq db upgrade
    """
    from contract.database.address import database_address
    from contract.database.engine import make_engine, reaching_database, reading
    from contract.database.schema import check_upgradable, revision_of

    engine = make_engine(read_settings().database())
    _make_folder(engine)
    with reaching_database(engine):
        with reading(engine) as connection:
            before = check_upgradable(connection)
        import_module("migrations.upgrade").upgrade(engine)
        with reading(engine) as connection:
            after = revision_of(connection)
    where = database_address(engine)
    what = f"is already at schema {after:04}" if before == after else "upgraded: schema "
    steps = "" if before == after else f"{before:04} → {after:04}"
    print(f"{where} {what}{steps}")
    engine.dispose()


def _make_folder(engine: Engine) -> None:
    """Creates the folder of an SQLite file."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UnavailableError(f"{error.filename} cannot be created: {error.strerror}.") from error
