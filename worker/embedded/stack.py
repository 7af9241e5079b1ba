"""`resnextq up`: broker, database, dispatcher, worker, API and dashboard, in one command.

Each part is a separate process. They start in the order in which they depend on each other, and
stop in reverse order. A process that dies is restarted. All data is in `RESNEXT_HOME`, and
unfinished jobs continue at the next start.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Engine, Row
from sqlalchemy.exc import DBAPIError

from contract import VERSION
from contract.database.address import database_address, read_url
from contract.database.engine import make_engine, reaching_database, reading
from contract.database.schema import check_upgradable
from contract.errors import UnavailableError, UsageError
from contract.log import in_lines, log_as_set, writes_json
from contract.log_file import turn_if_full
from contract.secret_file import write_secret
from contract.served import note_served
from contract.settings import PREFIX, Settings
from contract.terminal import make_console, wrap_for_terminal
from migrations.upgrade import upgrade
from worker.commands.flower import keep_login, login_file, url_file
from worker.embedded.files import locked
from worker.embedded.model import Choice, choose_model
from worker.embedded.service import Service
from worker.embedded.valkey import Valkey
from worker.health import find_worker

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
# The time limit for stopping a process that holds no work.
STOP_WITHIN_S: Final = 10.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit statuses of our commands after which a restart would fail again.
MISTAKES: Final = {2: UsageError, 3: UnavailableError}
# This is added to the port for metrics, because each process needs its own.
METRICS_PORTS: Final = {"worker": 0, "dispatch": 1, "serve": 2}
LAST_PORT: Final = 65_535
QUERY: Final = "SELECT uri, label, score FROM predictions WHERE rank = 1"


def run_stack(settings: Settings) -> None:
    """Runs the whole system. Returns after Ctrl-C or SIGTERM, when everything has stopped.

    Raises:
        UsageError: `up` already runs in this home, or a setting is wrong.
        UnavailableError: a server did not start, or the weights cannot be loaded.
    """
    if settings.log_format == "json":  # otherwise `up` prints text for people, not a log
        log_as_set(settings)
    with alone_in(settings):
        tell(f"resnext-queue {VERSION}", style="bold")
        choice = choose_model(settings)
        with using_home(settings):
            stack = Stack(settings, choice)
        stack.run()


@contextmanager
def alone_in(settings: Settings) -> Iterator[None]:
    """Locks the home, so that only one `up` runs in it.

    Raises:
        UsageError: another `up` runs in this home.
        UnavailableError: the home cannot be created.
    """
    pid_file = settings.home / "up.pid"
    with ExitStack() as stack:
        with using_home(settings):
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                stack.enter_context(locked(pid_file))
            except TimeoutError as error:
                raise UsageError(
                    f"`resnextq up` already runs in {settings.home}, as process "
                    f"{pid_file.read_text().strip() or 'unknown'}. Stop that process, or set "
                    f"{PREFIX}HOME to another folder."
                ) from error
            pid_file.write_text(f"{os.getpid()}\n")
        yield


@contextmanager
def using_home(settings: Settings) -> Iterator[None]:
    """Turns errors of files in the home into errors for the user.

    Raises:
        UnavailableError: something in the home cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        what = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        raise UnavailableError(
            f"{PREFIX}HOME is {settings.home}, which cannot be used: "
            f"{error.strerror or error}{what}."
        ) from error


class Stack:
    """Owns the processes while `run` runs."""

    def __init__(self, given: Settings, choice: Choice) -> None:
        self._given = given
        port = given.metrics_port
        if port is not None and port + len(METRICS_PORTS) - 1 > LAST_PORT:
            raise UsageError(
                f"{PREFIX}METRICS_PORT is {port}. `up` needs the next two ports as well, so it can "
                f"be at most {LAST_PORT - len(METRICS_PORTS) + 1}."
            )
        settings, self._note = choice
        self._settings = settings
        self._logs = settings.home / "logs"
        self._uploads = settings.uploads or str(settings.home / "uploads")
        self._valkey = None if settings.broker_url else Valkey(settings.home / "valkey")
        self._dispatcher = self._service("dispatch")
        self._worker = self._service(
            "worker", stop_within_s=settings.stop_within_s + STOP_WITHIN_S, heard=True
        )
        self._flower = self._service("flower", variables=free_flower_port(settings))
        self._api = self._service("serve", "--embedded")
        self._stopping = threading.Event()
        self._is_ready = False

    def run(self) -> None:
        self.hear_signals()
        engine = make_engine(self._settings.database())
        try:
            migrate(engine)
            with using_home(self._settings):
                self._start()
            while not self._stopping.wait(POLL_S):
                self._watch(engine)
        finally:
            self._stop()
            engine.dispose()

    def _service(
        self,
        name: str,
        *options: str,
        stop_within_s: float = STOP_WITHIN_S,
        heard: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Service:
        return Service(
            name,
            self._logs,
            *options,
            stop_within_s=stop_within_s,
            heard=heard,
            variables={
                f"{PREFIX}UPLOADS": self._uploads,
                f"{PREFIX}MODEL": self._settings.model,
                f"{PREFIX}WEIGHTS": self._settings.weights,
                **self._metrics_port(name),
                **(variables or {}),
            },
        )

    def _metrics_port(self, name: str) -> dict[str, str]:
        first = self._settings.metrics_port
        if not first or name not in METRICS_PORTS:  # with port 0, each takes any free port
            return {}
        return {f"{PREFIX}METRICS_PORT": str(first + METRICS_PORTS[name])}

    @property
    def _services(self) -> tuple[Service, ...]:
        """In the order in which they stop: the worker first, because it holds the most work."""
        return (self._worker, self._dispatcher, self._api, self._flower)

    def hear_signals(self) -> None:
        """Installs the signal handlers. SIGHUP stays ignored under `nohup`."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        if self._stopping.is_set():
            for service in self._services:
                service.kill()
        self._stopping.set()

    def _start(self) -> None:
        self._logs.mkdir(exist_ok=True, mode=0o700)
        if self._settings.uploads is None:
            Path(self._uploads).mkdir(exist_ok=True, mode=0o700)
        self._start_broker()
        settings = self._settings
        keep_login(settings)
        for file in (url_file(settings), settings.api_url_file, settings.login_link_file):
            file.unlink(missing_ok=True)
        note_served(settings)
        for service in reversed(self._services):
            service.start()
        while self._pages_are_coming() and not self._stopping.wait(POLL_S):
            self._revive(self._worker, self._dispatcher)
        self._show_places()

    def _start_broker(self) -> None:
        if self._valkey is not None:
            self._valkey.start()
            write_secret(self._settings.broker_url_file, f"{self._valkey.url}\n")

    def _bound_log_of_valkey(self) -> None:
        """Rotates Valkey's log if it is full. All other programs rotate their own logs.

        Valkey opens its log for each line, so the file can be renamed at any time.
        """
        if self._valkey is not None:
            with suppress(OSError):
                turn_if_full(
                    self._valkey.log,
                    most_bytes=self._settings.log_file_bytes,
                    kept=self._settings.log_files,
                )

    def _pages_are_coming(self) -> bool:
        pages = {
            url_file(self._settings): self._flower,
            self._settings.api_url_file: self._api,
        }
        return any(service.runs and not file.exists() for file, service in pages.items())

    def _watch(self, engine: Engine) -> None:
        if self._valkey is not None and self._valkey.poll() is not None:
            tell(
                f"Valkey has ended and is being restarted. Its log: {self._valkey.log}",
                level=logging.WARNING,
            )
            self._start_broker()
        self._bound_log_of_valkey()
        self._revive(*self._services)
        if not self._is_ready:
            self._show_beginning(engine)

    def _revive(self, *services: Service) -> None:
        """Restarts the services that have ended, once their wait is over.

        Raises:
            UsageError, UnavailableError: the dispatcher or the worker cannot start.
        """
        for service in services:
            status = service.has_ended()
            if status is not None:
                self._judge(service, status)
            service.revive()

    def _judge(self, service: Service, status: int) -> None:
        needed = service in (self._worker, self._dispatcher)
        if status in MISTAKES and needed and not self._is_ready:
            raise MISTAKES[status](f"resnextq {service.name} did not start:\n{service.tail()}")
        last = service.tail().rpartition("\n")[2]
        tell(
            f"resnextq {service.name} has ended with status {status}: {last}\n"
            f"It will be restarted in {service.restarts_in_s:.0f} s. Its log: {service.log}",
            level=logging.WARNING,
        )

    def _show_beginning(self, engine: Engine) -> None:
        """Shows the worker's messages, such as a download, until it has its row in SQL."""
        for message in self._worker.new_messages():
            tell(f"worker: {message}", style="dim")
        with suppress(DBAPIError), reading(engine) as connection:
            worker = find_worker(connection, self._settings, self._worker.pid)
            if worker is not None:
                self._is_ready = True
                self._worker.stop_listening()
                self._show_ready(worker)

    def _show_places(self) -> None:
        settings = self._settings
        engine = make_engine(settings.database())
        places = {
            "home": str(settings.home),
            "database": database_address(engine),
            "broker": self._where_broker_is(),
            "pages": self._where_pages_are(),
            "api": self._where_api_is(),
            "dashboard": self._where_dashboard_is(),
            "files": self._which_files_may_be_read(),
            "logs": str(self._logs),
        }
        for what, where in places.items():
            tell(f"  {what:<10}{where}")
        if self._note:
            tell(self._note, style="yellow")
        tell(f"Starting a worker: {settings.model}, weights {settings.weights}")

    def _where_broker_is(self) -> str:
        if self._valkey is None:
            return f"as {PREFIX}BROKER_URL says"
        where = self._valkey.socket_path or "Valkey on loopback"
        return f"{where}  (with its password in {self._settings.broker_url_file})"

    def _where_api_is(self) -> str:
        url = self._settings.api_url_file
        if not url.exists():
            return f"not running; its log: {self._api.log}"
        return f"{url.read_text().strip()}  (key in {self._settings.api_key_file})"

    def _where_pages_are(self) -> str:
        file, port = self._settings.api_url_file, self._settings.api_port
        if not file.exists():
            return "not running, like the API"
        return with_taken_port(file.read_text().strip(), port)

    def _which_files_may_be_read(self) -> str:
        roots = ", ".join(
            f"{root}{'' if root.is_dir() else ' (no such folder)'}"
            for root in self._settings.file_roots
        )
        return f"under {roots}" if roots else f"none may be read; {PREFIX}FILE_ROOTS names folders"

    def _login_link(self) -> str | None:
        """The link, if the output is a terminal. In a log, others could read it later."""
        link = self._settings.login_link_file
        return link.read_text().strip() if sys.stderr.isatty() and link.exists() else None

    def _where_dashboard_is(self) -> str:
        if not url_file(self._settings).exists():
            return f"not running; its log: {self._flower.log}"
        login = (
            f"login as {PREFIX}FLOWER_LOGIN says"
            if self._settings.flower_login
            else f"login in {login_file(self._settings)}"
        )
        url = url_file(self._settings).read_text().strip()
        return f"{with_taken_port(url, self._settings.flower_port)}  ({login})"

    def _show_ready(self, worker: Row[Any]) -> None:
        precision = str(self._settings.precision)
        if worker.precision != precision:
            precision = f"{precision} ({worker.precision})"
        tell(
            f"Ready: queue {worker.queue}, on {worker.device}, in {precision}. "
            "Ctrl-C stops everything; unfinished jobs continue at the next start.",
            style="bold green",
        )
        link = self._login_link()
        if link is not None:
            tell(
                "Classify your own pictures in a browser (the link works once; "
                "`resnextq login` prints a new one):"
            )
            tell(f"  {link}", style="bold")
        given = self._given.model_fields_set
        # Its password must not be shown.
        condition = f", with the same {PREFIX}DATABASE_URL" if "database_url" in given else ""
        tell(f"{'Or' if link else 'Next'}, in another terminal{condition}:")
        if "home" in given:
            tell(f"  export {PREFIX}HOME={shlex.quote(str(self._given.home))}")
        if sys.prefix != sys.base_prefix:  # its programs may not be found there
            tell(f'  export PATH="{Path(sys.executable).parent}:$PATH"')
        tell("  resnextq submit SOURCE...  # URIs, folders or lists")
        tell("  resnextq status JOB --watch")
        tell("  resnextq results JOB")
        database = read_url(self._settings.database())
        if database.get_backend_name() == "sqlite" and database.database and not database.query:
            tell(f'  sqlite3 {shlex.quote(database.database)} "{QUERY}"')

    def _stop(self) -> None:
        self.hear_signals()  # for a second Ctrl-C
        self._stopping.set()
        if any(service.pid for service in self._services):
            tell(
                "Stopping: the worker finishes what is on its device and hands back the rest. "
                "A second Ctrl-C stops it at once."
            )
        for service in self._services:
            service.stop()
        self._settings.served_file.unlink(missing_ok=True)
        if self._valkey is not None:
            self._valkey.stop()
        tell("Stopped.")


def tell(message: str, style: str | None = None, level: int = logging.INFO) -> None:
    """Prints a message for people, or logs it with `RESNEXT_LOG_FORMAT=json`."""
    if writes_json():
        log.log(level, "%s", " ".join(message.split()))
        return
    with suppress(OSError):  # the terminal may be gone, and everything must still stop in order
        console = make_console(stderr=True, highlight=False)
        text = in_lines(message)
        if not text.startswith("  "):  # places and commands are copied, so they stay whole
            text = wrap_for_terminal(text)
        console.print(text, style=style, markup=False, soft_wrap=True)


def with_taken_port(url: str, port: int) -> str:
    """The URL and, if another program has the default port, a remark that says so."""
    return url if not port or urlsplit(url).port == port else f"{url}  (port {port} is taken)"


def free_flower_port(settings: Settings) -> dict[str, str]:
    """Chooses any free port if the default port is taken and no port is set, as the API does."""
    if "flower_port" in settings.model_fields_set:
        return {}
    try:
        with socket.create_server((settings.flower_address, settings.flower_port)):
            return {}
    except OSError:
        return {f"{PREFIX}FLOWER_PORT": "0"}


def migrate(engine: Engine) -> None:
    """Creates or upgrades the schema.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SchemaMismatch: its schema is too new for this program.
    """
    with reaching_database(engine):
        with reading(engine) as connection:
            check_upgradable(connection)
        upgrade(engine)
