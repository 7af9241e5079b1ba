"""`resnextq up`: broker, database, dispatcher, worker, API and dashboard, in one command.

Each part is a process of its own, started in the order in which each needs the others and
stopped in the reverse one. What dies is started again. The data lie in `RESNEXT_HOME`; what
was not done when it stopped goes on when it is started again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from rich.console import Console
from sqlalchemy import Engine, Row
from sqlalchemy.exc import DBAPIError

from contract import VERSION
from contract.database.address import database_address
from contract.database.engine import make_engine, reaching_database, reading
from contract.database.schema import check_upgradable
from contract.errors import UnavailableError, UsageError
from contract.log import in_lines
from contract.secret_file import write_secret
from contract.settings import PREFIX, Settings
from migrations.upgrade import upgrade
from worker.commands.flower import keep_login, login_file, url_file
from worker.embedded.files import locked
from worker.embedded.service import Service
from worker.embedded.valkey import Valkey
from worker.health import find_worker

POLL_S: Final = 0.2
# For a process that holds no work.
STOP_WITHIN_S: Final = 10.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit statuses of our commands that another try would not change at once.
MISTAKES: Final = {2: UsageError, 3: UnavailableError}
# Settings that `submit` needs as well, to find the same servers and ask for the same model.
SHARED: Final = ("home", "broker_url", "database_url", "model", "weights", "precision",
                 "file_roots", "object_stores")  # fmt: skip


def run_stack(settings: Settings) -> None:
    """Returns after Ctrl-C or SIGTERM, when all has stopped.

    Raises:
        UsageError: it runs already in this home, or a setting is wrong.
        UnavailableError: a server did not start, or the weights are not to be had.
    """
    with alone_in(settings):
        Stack(settings).run()


@contextmanager
def alone_in(settings: Settings) -> Iterator[None]:
    """
    Raises:
        UsageError: `up` runs in this home already.
        UnavailableError: the home cannot be made.
    """
    pid_file = settings.home / "up.pid"
    with ExitStack() as stack:
        try:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(locked(pid_file))
        except TimeoutError as error:
            raise UsageError(
                f"`resnextq up` runs in {settings.home} already, as process "
                f"{pid_file.read_text().strip() or 'unknown'}. Stop that one, or set "
                f"{PREFIX}HOME to another folder."
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"{PREFIX}HOME is {settings.home}, which cannot be used: {error.strerror or error}."
            ) from error
        pid_file.write_text(f"{os.getpid()}\n")
        yield


class Stack:
    """Owns the processes, from `run` to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._logs = settings.home / "logs"
        self._valkey = None if settings.broker_url else Valkey(settings.home / "valkey")
        self._dispatcher = self._service("dispatch")
        self._worker = self._service(
            "worker", stop_within_s=settings.stop_within_s + STOP_WITHIN_S, heard=True
        )
        self._flower = self._service("flower")
        self._api = self._service("serve", "--embedded")
        self._stopping = threading.Event()
        self._is_ready = False
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def run(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        engine = make_engine(self._settings.database())
        try:
            migrate(engine)
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
    ) -> Service:
        return Service(name, self._logs, *options, stop_within_s=stop_within_s, heard=heard)

    @property
    def _services(self) -> tuple[Service, ...]:
        """The one that holds most work first."""
        return (self._worker, self._dispatcher, self._api, self._flower)

    def _on_signal(self, *_: object) -> None:
        if self._stopping.is_set():
            for service in self._services:
                service.kill()
        self._stopping.set()

    def _start(self) -> None:
        self._logs.mkdir(exist_ok=True, mode=0o700)
        self._start_broker()
        keep_login(self._settings)
        for file in (url_file(self._settings), self._settings.api_url_file):
            file.unlink(missing_ok=True)
        for service in reversed(self._services):
            service.start()
        while self._pages_are_coming() and not self._stopping.wait(POLL_S):
            self._revive(self._worker, self._dispatcher)
        self._show_places()

    def _start_broker(self) -> None:
        if self._valkey is not None:
            self._valkey.start()
            write_secret(self._settings.broker_url_file, f"{self._valkey.url}\n")

    def _pages_are_coming(self) -> bool:
        pages = {
            url_file(self._settings): self._flower,
            self._settings.api_url_file: self._api,
        }
        return any(service.runs and not file.exists() for file, service in pages.items())

    def _watch(self, engine: Engine) -> None:
        if self._valkey is not None and self._valkey.poll() is not None:
            self._tell(f"Valkey has ended; it is started again. Its log: {self._valkey.log}")
            self._start_broker()
        self._revive(*self._services)
        if not self._is_ready:
            self._show_beginning(engine)

    def _revive(self, *services: Service) -> None:
        """
        Raises:
            UsageError, UnavailableError: dispatcher or worker cannot begin.
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
        self._tell(
            f"resnextq {service.name} has ended with status {status}: {last}\n"
            f"It is started again in {service.restarts_in_s:.0f} s; its log is {service.log}"
        )

    def _show_beginning(self, engine: Engine) -> None:
        """What the worker logs until its row is there, such as a download of weights."""
        for message in self._worker.new_messages():
            self._tell(f"  worker  {message}", style="dim")
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
            "api": self._where_api_is(),
            "dashboard": self._where_dashboard_is(),
            "logs": str(self._logs),
        }
        self._tell(f"resnext-queue {VERSION}", style="bold")
        for what, where in places.items():
            self._tell(f"  {what:<10}{where}")
        self._tell(f"Starting a worker: {settings.model}, weights {settings.weights}")

    def _where_broker_is(self) -> str:
        if self._valkey is None:
            return f"as {PREFIX}BROKER_URL says"
        where = self._valkey.socket_path or "Valkey on loopback"
        return f"{where}  (with its password in {self._settings.broker_url_file})"

    def _where_api_is(self) -> str:
        url = self._settings.api_url_file
        if not url.exists():
            return f"not running; its log is {self._api.log}"
        return f"{url.read_text().strip()}  (key in {self._settings.api_key_file})"

    def _where_dashboard_is(self) -> str:
        if not url_file(self._settings).exists():
            return f"not running; its log is {self._flower.log}"
        login = (
            f"login as {PREFIX}FLOWER_LOGIN says"
            if self._settings.flower_login
            else f"login in {login_file(self._settings)}"
        )
        return f"{url_file(self._settings).read_text().strip()}  ({login})"

    def _show_ready(self, worker: Row[Any]) -> None:
        self._tell(
            f"Ready: queue {worker.queue}, on {worker.device}, in {worker.precision}. "
            "Ctrl-C stops everything; what is not done then goes on at the next start.",
            style="bold green",
        )
        same = [f"{PREFIX}{name.upper()}" for name in SHARED if name in self._set_by_the_user()]
        condition = f", with the same {', '.join(same)}" if same else ""
        self._tell(f"Next, in another terminal{condition}:")
        self._tell("  resnextq submit SOURCE...       # URIs, folders, lists; prints a job id")
        self._tell("  resnextq status JOB --watch")
        self._tell("  resnextq results JOB")

    def _set_by_the_user(self) -> set[str]:
        return self._settings.model_fields_set

    def _stop(self) -> None:
        for number in STOP_SIGNALS:  # also where no signal has brought us here
            signal.signal(number, self._on_signal)
        self._stopping.set()
        if any(service.pid for service in self._services):
            self._tell("Stopping: the worker finishes what is on its device and hands back the")
            self._tell("rest; a second Ctrl-C stops it at once.")
        for service in self._services:
            service.stop()
        if self._valkey is not None:
            self._valkey.stop()
        self._tell("Stopped.")

    def _tell(self, message: str, style: str | None = None) -> None:
        with suppress(OSError):  # the terminal is gone, and all is to be stopped in order
            self._console.print(in_lines(message), style=style, markup=False)


def migrate(engine: Engine) -> None:
    """
    Raises:
        DatabaseUnavailable: it does not answer.
        SchemaMismatch: its schema is too new for this program.
    """
    with reaching_database(engine):
        with reading(engine) as connection:
            check_upgradable(connection)
        upgrade(engine)
