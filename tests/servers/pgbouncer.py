"""A real PgBouncer in transaction mode in front of a database on the tests' PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL
from sqlalchemy.engine import make_url

from tests.ports import free_port

# Debian installs it where only root's PATH looks.
PROGRAM: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
MISSING: Final = "PgBouncer is not installed: apt-get install pgbouncer"
START_WITHIN_S: Final = 30.0


@contextmanager
def pgbouncer(database_url: str, *, connections: int) -> Iterator[str]:
    """Yields the URL of the same database behind a pooler with this many connections to it."""
    assert PROGRAM is not None, MISSING
    server, port = make_url(database_url), free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    (folder / "users").write_text(f'"{server.username}" "{server.password or ""}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(_configuration(server, folder, port, connections))
    process = subprocess.Popen(
        [PROGRAM, configuration],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **_as_the_servers_user(server, folder),
    )
    log = folder / "pgbouncer.log"
    try:
        _await_port(port, process, log)
        pooled = server.set(host="127.0.0.1", port=port).difference_update_query(["host", "port"])
        yield pooled.render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _configuration(server: URL, folder: Path, port: int, connections: int) -> str:
    host = server.host or str(server.query.get("host", ""))
    own_port = server.port or server.query.get("port", 5432)
    return f"""[databases]
{server.database} = host={host} port={own_port} user={server.username}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
logfile = {folder}/pgbouncer.log
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
"""


def _as_the_servers_user(server: URL, folder: Path) -> dict[str, Any]:
    """Options of Popen to run as PostgreSQL's user.

    PgBouncer refuses to run as root, and only the server's own user may open PostgreSQL's socket.
    """
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(Path(str(server.query["host"])).owner())
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text() if log.exists() else "PgBouncer did not start")
