"""`resnextq serve`: the HTTP API as a process, on uvicorn.

It listens on loopback unless told otherwise. TLS, and a name of its own, are a proxy's: see
docs/api.md. For `up` its address stands in the file `api-url` of the home, since its port may be
any.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from typing import Final

import uvicorn
from sqlalchemy import Engine

from contract.database.engine import connect_database
from contract.errors import UnavailableError, UsageError
from contract.log import log_lines
from contract.secret_file import write_secret
from contract.settings import PREFIX, Settings
from producer.api.app import make_app
from producer.api.keys import SCOPES, Keys, create_key, revoke_key
from producer.submit.submission import login_name

log = logging.getLogger(__name__)

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  (only compared)
BACKLOG: Final = 2048
EMBEDDED: Final = "up"
"""The name of the key that `up` keeps."""
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
            _serve(engine, settings, listener)
    finally:
        engine.dispose()


def run_embedded(settings: Settings) -> None:
    """As `run_server`, for `resnextq up`: it keeps a key for whoever has the home, and takes any
    free port where nobody has set one and the usual one is taken.
    """
    log_lines(settings.log_level)
    engine = connect_database(settings)
    try:
        keep_key(engine, settings)
        try:
            listener = listen(settings)
        except UnavailableError:
            if "api_port" in settings.model_fields_set:
                raise
            listener = listen(settings.model_copy(update={"api_port": 0}))
        with listener:
            write_url(settings, url_of(listener))
            _serve(engine, settings, listener)
    finally:
        settings.api_url_file.unlink(missing_ok=True)
        engine.dispose()


def write_url(settings: Settings, url: str) -> None:
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.api_url_file.write_text(f"{url}\n")


def keep_key(engine: Engine, settings: Settings) -> None:
    """Makes a key where the one in the home is none of this database."""
    file = settings.api_key_file
    if file.exists() and Keys(engine).find(file.read_text().strip()) is not None:
        return
    with suppress(UsageError):  # there is none
        revoke_key(engine, EMBEDDED)
    write_secret(file, f"{create_key(engine, EMBEDDED, SCOPES, login_name())}\n")


def _serve(engine: Engine, settings: Settings, listener: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(engine, settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
    log.info("ready: %s", url_of(listener))
    uvicorn.Server(config).run([listener])


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
