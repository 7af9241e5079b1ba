"""`resnextq flower`: Flower, the dashboard of tasks and workers, behind a login.

`resnextq up` runs it, and anyone else may. The login is a setting or what `up` has generated; it
goes to Flower in memory, since every user of a machine may read argv.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from pathlib import Path

from celery import Celery
from flower.app import Flower
from flower.options import default_options
from flower.urls import settings as flower_settings

from contract.broker.connection import check_broker, make_celery
from contract.errors import UnavailableError, UsageError
from contract.log import log_lines
from contract.secret_file import write_secret
from contract.settings import PREFIX, Settings
from worker.dashboard.handlers import HANDLERS
from worker.dashboard.history import FORGET_WORKERS_AFTER_S, History, forgetting

log = logging.getLogger(__name__)

USER = "resnextq"
ONLY_OWNER = 0o077
# A chunk's images are in its arguments, and what has failed of them in its exception.
COLUMNS = "kwargs,state,exception,received,runtime,worker,uuid"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  (only compared)


def run_flower(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT.

    Raises:
        UsageError: there is no login.
        UnavailableError: Redis does not answer, the address is taken, or the home cannot be used.
    """
    log_lines(settings.log_level)
    os.umask(ONLY_OWNER)
    login = read_login(settings)
    app = make_celery(settings)
    check_broker(app)
    make_home(settings)
    flower = make_flower(app, settings, login)
    url = listen(flower, settings)
    write_url(settings, url)
    log.info("ready: %s", url)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: flower.io_loop.add_callback_from_signal(flower.stop))
    forgetting(flower).start()
    try:
        flower.start()
    finally:
        url_file(settings).unlink(missing_ok=True)


def login_file(settings: Settings) -> Path:
    """Where `up` keeps the login that it has generated, readable by its owner."""
    return settings.home / "flower-login"


def url_file(settings: Settings) -> Path:
    """Where the dashboard writes its address once it listens, since its port may be any."""
    return settings.home / "flower-url"


def history_file(settings: Settings) -> Path:
    """Where the dashboard keeps what it has seen. Python's dbm may add an ending."""
    return settings.home / "flower-history"


def keep_login(settings: Settings) -> None:
    """Generates a login where none is set and none was generated before."""
    if settings.flower_login is None and not login_file(settings).exists():
        write_secret(login_file(settings), f"{USER}:{secrets.token_urlsafe(16)}\n")


def read_login(settings: Settings) -> str:
    """`user:password`.

    Raises:
        UsageError: there is none.
    """
    if settings.flower_login is not None:
        return settings.flower_login.get_secret_value()
    try:
        return login_file(settings).read_text().strip()
    except FileNotFoundError as missing:
        raise UsageError(
            f"The dashboard needs a login: set {PREFIX}FLOWER_LOGIN to user:password."
        ) from missing


def make_home(settings: Settings) -> None:
    """
    Raises:
        UnavailableError: the folder cannot be made.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UnavailableError(
            f"{PREFIX}HOME is {settings.home}, which cannot be made: {error.strerror}."
        ) from error


def make_flower(app: Celery, settings: Settings, login: str) -> Flower:
    """Flower with our login and memory. It shows, and changes nothing."""
    default_options.basic_auth = [login]
    default_options.address = settings.flower_address
    default_options.port = settings.flower_port
    default_options.read_only = True  # hides what would change something
    default_options.tasks_columns = COLUMNS
    default_options.purge_offline_workers = FORGET_WORKERS_AFTER_S
    flower = Flower(
        capp=app,
        options=default_options,
        events=History(app, history_file(settings)),
        **flower_settings,
    )
    flower.add_handlers(".*", HANDLERS)  # goes before Flower's own
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    return flower


def listen(flower: Flower, settings: Settings) -> str:
    """Opens the port; its address as a browser takes it.

    Raises:
        UnavailableError: the address is taken, or not this machine's.
    """
    try:
        port = flower.start_http_server()
    except OSError as error:
        where = f"{settings.flower_address}:{settings.flower_port}"
        raise UnavailableError(
            f"The dashboard cannot listen on {where}: {os.strerror(error.errno or 0)}. Set "
            f"{PREFIX}FLOWER_PORT to a free port (0: any), or {PREFIX}FLOWER_ADDRESS."
        ) from error
    host = EVERYWHERE.get(settings.flower_address, settings.flower_address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def write_url(settings: Settings, url: str) -> None:
    url_file(settings).write_text(f"{url}\n")
