"""`resnextq serve`: the HTTP API as a process, on uvicorn.

It listens on loopback unless told otherwise. TLS, and a name of its own, are a proxy's: see
docs/deployment.md. Its address stands in the file `api-url` of the home, since its port may be any.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Final

import uvicorn

from contract.database.engine import connect_database
from contract.errors import UnavailableError
from contract.log import log_lines
from contract.settings import PREFIX, Settings
from producer.api.app import make_app

log = logging.getLogger(__name__)

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  (only compared)
BACKLOG: Final = 2048
STOP_WITHIN_S: Final = 5


def run_server(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT.

    Raises:
        DatabaseUnavailable, SchemaMismatch: there is no database that fits.
        UnavailableError: the address is taken, or not this machine's.
    """
    log_lines(settings.log_level)
    engine = connect_database(settings)
    try:
        with listen(settings) as listener:
            url = url_of(listener)
            config = uvicorn.Config(
                make_app(engine, settings),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_WITHIN_S,
                lifespan="on",
            )
            write_url(settings, url)
            log.info("ready: %s", url)
            uvicorn.Server(config).run([listener])
    finally:
        url_file(settings).unlink(missing_ok=True)
        engine.dispose()


def url_file(settings: Settings) -> Path:
    return settings.home / "api-url"


def write_url(settings: Settings, url: str) -> None:
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    url_file(settings).write_text(f"{url}\n")


def listen(settings: Settings) -> socket.socket:
    """
    Raises:
        UnavailableError: the address is taken, or not this machine's.
    """
    address, port = settings.api_address, settings.api_port
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UnavailableError(
            f"The API cannot listen on {address}:{port}: {reason}. Set {PREFIX}API_PORT to a free "
            f"port (0: any), or {PREFIX}API_ADDRESS."
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """As a client of this machine takes it."""
    address, port = listener.getsockname()[:2]
    host = EVERYWHERE.get(address, address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
