"""What a loader is kept from, tried out in a process that is started as loaders are.

The worker logs it at its start, and `resnextq doctor` shows it. Nothing is
concluded from the kernel's version: inside, each thing is attempted, and what is refused counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import UnavailableError
from contract.settings import PREFIX, Settings
from worker.loader.sandbox import landlock
from worker.loader.sandbox.prctl import PR_GET_NO_NEW_PRIVS, prctl
from worker.loader.sandbox.start import command, write_permitted

log = logging.getLogger(__name__)

# A machine that has much else to do starts a process slowly.
WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Protections:
    refused: tuple[str, ...]
    """What loaders cannot do here, of `ATTEMPTS`."""
    possible: tuple[str, ...]
    """The rest."""

    def __str__(self) -> str:
        if not self.possible:
            return f"loaders cannot {_listed(self.refused)}"
        refused = f"; they cannot {_listed(self.refused)}" if self.refused else ""
        return f"loaders can {_listed(self.possible)}{refused}"

    @property
    def advice(self) -> str:
        """For what is possible; empty where nothing is."""
        if not self.possible:
            return ""
        if landlock.version():
            return f"See {PREFIX}SANDBOX; a container's own seccomp profile may be in the way."
        return "Linux 5.13 and newer have Landlock, where the boot option `lsm=` does not omit it."


def find_out(settings: Settings) -> Protections:
    """
    Raises:
        OSError, subprocess.SubprocessError: no process can be started, or it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="resnext-probe-") as folder:
        outside = Path(folder, "outside")
        outside.touch()
        refused = _ask(outside, inside=settings.sandbox != "off")
    return Protections(
        tuple(name for name in ATTEMPTS if name in refused),
        tuple(name for name in ATTEMPTS if name not in refused),
    )


def tell_protections(settings: Settings) -> None:
    """In the log, once.

    Raises:
        UnavailableError: not all that `RESNEXT_SANDBOX` requires.
    """
    try:
        found = find_out(settings)
    except (OSError, subprocess.SubprocessError) as error:
        _require(settings, f"What loaders are kept from cannot be found out: {error}.")
        return
    if found.possible:
        _require(settings, f"{str(found).capitalize()}. {found.advice}")
    else:
        log.info("%s", found)


def _require(settings: Settings, message: str) -> None:
    if settings.sandbox == "required":
        raise UnavailableError(f"{message} {PREFIX}SANDBOX is `required`.")
    log.warning("%s", message)


def _ask(outside: Path, *, inside: bool) -> list[str]:
    permitted = write_permitted([]) if inside else None
    descriptors = [] if permitted is None else [permitted]
    try:
        done = subprocess.run(
            command("worker.loader.sandbox.protections", str(outside), permitted=permitted),
            pass_fds=descriptors,
            env={k: v for k, v in os.environ.items() if k == "PYTHONPATH"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WITHIN_S,
            check=True,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    refused: list[str] = json.loads(done.stdout)
    return refused


def _listed(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


# Inside, from here on: each function raises OSError if it is refused.


def _read(outside: Path) -> None:
    outside.read_bytes()


def _write(outside: Path) -> None:
    outside.write_bytes(b"")


def _truncate(outside: Path) -> None:
    os.truncate(outside, 0)


def _make(outside: Path) -> None:
    outside.with_name("made").touch()


def _start_program(_: Path) -> None:
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], {}), 0)


def _start_process(_: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _signal(_: Path) -> None:
    os.kill(os.getppid(), 0)


def _have_signalled(_: Path) -> None:
    """The kernel does it, when there is something to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getppid())


def _connect_locally(_: Path) -> None:
    socket.socket(socket.AF_UNIX).close()


def _listen(_: Path) -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def _gain_rights(_: Path) -> None:
    _refuse_if(prctl(PR_GET_NO_NEW_PRIVS, 0) == 1)


def _dump(_: Path) -> None:
    _refuse_if(resource.getrlimit(resource.RLIMIT_CORE) == (0, 0))


def _refuse_if(refused: bool) -> None:  # noqa: FBT001  (what it says)
    if refused:
        raise PermissionError


ATTEMPTS: Final[dict[str, Callable[[Path], None]]] = {
    "read other files": _read,
    "write files": _write,
    "truncate files": _truncate,
    "make files": _make,
    "run programs": _start_program,
    "start processes": _start_process,
    "signal other processes": _signal,
    "have other processes signalled": _have_signalled,
    "open local sockets": _connect_locally,
    "listen on a port": _listen,
    "gain privileges": _gain_rights,
    "leave core files": _dump,
}


def main() -> None:
    refused = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt(Path(sys.argv[1]))
        except OSError:
            refused.append(name)
    print(json.dumps(refused))  # noqa: T201  (its answer)


if __name__ == "__main__":
    main()
