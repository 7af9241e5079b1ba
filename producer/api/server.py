"""`resnextq serve`: runs the HTTP API and the pages in a process, on uvicorn.

By default it listens on loopback. A proxy provides TLS and a host name: see docs/api.md. For `up`
the file `api-url` in the home has its address, since its port may vary.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import socket
from contextlib import suppress
from typing import Final

import uvicorn
from sqlalchemy import Engine

from contract.database.engine import connect_database
from contract.errors import UnavailableError, UsageError
from contract.log import log_as_set
from contract.metrics.exporter import exporting
from contract.secret_file import write_secret
from contract.settings import PREFIX, Settings
from contract.url import url_at
from producer.api.keys import SCOPES, Keys, create_key, revoke_key
from producer.api.metrics import Metrics
from producer.pages.sessions import link_of, make_link
from producer.pages.site import make_site
from producer.submit.submission import login_name

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
EMBEDDED: Final = "up"
"""Name of the key that `up` keeps."""
STOP_WITHIN_S: Final = 5
COLLECT_AFTER: Final = (50_000, 20, 20)
# <malloc.h>
M_ARENA_MAX: Final = -8
ARENAS: Final = 2
"""Each of glibc's arenas keeps memory that its threads have freed. With one per thread, ten minutes
of `benchmarks.system.api` end at 614 MB and still growing; with two, at 335 MB and level.
"""


def run_server(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        DatabaseUnavailable, SchemaMismatch: the database cannot be used.
        UnavailableError: the address for the API or for metrics is taken or not this machine's.
    """
    log_as_set(settings)
    engine = connect_database(settings)
    try:
        with listen(settings) as listener:
            _serve(engine, settings, listener)
    finally:
        engine.dispose()


def run_embedded(settings: Settings) -> None:
    """Like `run_server`, for `resnextq up`. Keeps a key in the home. If no port is set and the
    default port is taken, it listens on any free port.
    """
    log_as_set(settings)
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
            url = url_of(listener)
            write_secret(settings.login_link_file, f"{link_of(url, make_link(engine, EMBEDDED))}\n")
            write_url(settings, url)
            _serve(engine, settings, listener)
    finally:
        for file in (settings.api_url_file, settings.login_link_file):
            file.unlink(missing_ok=True)
        engine.dispose()


def write_url(settings: Settings, url: str) -> None:
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secret(settings.api_url_file, f"{url}\n")


def keep_key(engine: Engine, settings: Settings) -> None:
    """Creates a key if the one in the home is not a key of this database."""
    file = settings.api_key_file
    if file.exists() and Keys(engine).find(file.read_text().strip()) is not None:
        return
    with suppress(UsageError):  # there is no such key
        revoke_key(engine, EMBEDDED)
    write_secret(file, f"{create_key(engine, EMBEDDED, SCOPES, login_name())}\n")


def _serve(engine: Engine, settings: Settings, listener: socket.socket) -> None:
    counts = Metrics()
    config = uvicorn.Config(
        make_site(engine, settings, counts),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
    # Loaded modules stay. Lists that come and go have tens of thousands of rows, which reference
    # counts free; Python would search them again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    with exporting(settings, counts.registry):
        log.info("ready: %s", url_of(listener))
        uvicorn.Server(config).run([listener])


def listen(settings: Settings) -> socket.socket:
    """Opens the socket.

    Raises:
        UnavailableError: the address is taken, or not this machine's.
    """
    address, port = settings.api_address, settings.api_port
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        # The protocol must be given: asyncio sets TCP_NODELAY only if it is TCP, not the default.
        # Without it, the second part of an answer waits 40 ms for the acknowledgement of the first.
        listener = socket.socket(family, kind, protocol)
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
    """The URL for clients on this machine."""
    address, port = listener.getsockname()[:2]
    return url_at(address, port)
