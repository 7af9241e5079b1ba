"""Tries from inside the sandbox each thing that a loader must not be able to do.

`worker.loader.sandbox.protections` starts it like a loader, as `worker.loader.sandbox.attempts
OUTSIDE ANSWER`. OUTSIDE is a file that a loader may not read. ANSWER is an inherited descriptor, to
which this writes in JSON what was refused.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.loader.sandbox import capabilities
from worker.loader.sandbox.prctl import (
    PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG,
    PR_SET_PDEATHSIG,
    prctl,
)

STANDARD: Final = frozenset({0, 1, 2})
# <linux/ipc.h>, <linux/fanotify.h>: a private key; the class that needs no capability.
_IPC_PRIVATE: Final = 0
_FAN_REPORT_FID: Final = 0x200
_IPC_RMID: Final = 0


# Each of these raises OSError if it is refused.


def _read(outside: Path, _: int) -> None:
    outside.read_bytes()


def _write(outside: Path, _: int) -> None:
    outside.write_bytes(b"")


def _truncate(outside: Path, _: int) -> None:
    os.truncate(outside, 0)


def _set_length(_: Path, answer: int) -> None:
    _any(lambda: os.ftruncate(answer, 0), lambda: os.posix_fallocate(answer, 0, 1))


def _make(outside: Path, _: int) -> None:
    outside.with_name("made").touch()


def _start_program(*_: object) -> None:
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], {}), 0)


def _start_process(*_: object) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _signal(*_: object) -> None:
    os.kill(os.getppid(), 0)


def _have_signalled(*_: object) -> None:
    """Makes the kernel send a signal when a socket has something to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getppid())


def _outlive(*_: object) -> None:
    """Removes the signal by which the kernel ends a loader together with its worker."""
    asked = ctypes.c_int()
    prctl(PR_GET_PDEATHSIG, ctypes.addressof(asked))
    _refuse_if(asked.value == signal.SIGKILL and prctl(PR_SET_PDEATHSIG, asked.value) < 0)


def _connect_locally(*_: object) -> None:
    socket.socket(socket.AF_UNIX).close()


def _listen(*_: object) -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def _speak_raw(*_: object) -> None:
    _any(
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        lambda: socket.socket(socket.AF_VSOCK).close(),
    )


def _keep_memory(*_: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def share() -> None:
        segment = _succeed(libc.shmget(_IPC_PRIVATE, 1, 0o600))
        libc.shmctl(segment, _IPC_RMID, None)

    def queue() -> None:
        made = _succeed(libc.msgget(_IPC_PRIVATE, 0o600))
        libc.msgctl(made, _IPC_RMID, None)

    _any(lambda: os.close(os.memfd_create("kept")), share, queue)


def _watch_files(*_: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.close(_succeed(libc.fanotify_init(_FAN_REPORT_FID, os.O_RDONLY)))


def _write_to_worker(*_: object) -> None:
    """A loader has no standard output, and its standard error is a pipe that the worker reads."""
    output, nothing = os.fstat(1), Path("/dev/null").stat()
    is_nothing = (output.st_dev, output.st_ino) == (nothing.st_dev, nothing.st_ino)
    _refuse_if(is_nothing and stat.S_ISFIFO(os.fstat(2).st_mode))


def _reach_terminal(*_: object) -> None:
    os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))


def _inherit(_: Path, answer: int) -> None:
    """The list also has the descriptor of the folder itself, which is closed by now."""
    listed = map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208  (numbers)
    _refuse_if(set(filter(_is_open, listed)) <= STANDARD | {answer})


def _use_capabilities(*_: object) -> None:
    _refuse_if(capabilities.permitted() & ~capabilities.READ_ALL_FILES == 0)


def _gain_rights(*_: object) -> None:
    _refuse_if(prctl(PR_GET_NO_NEW_PRIVS, 0) == 1)


def _dump(*_: object) -> None:
    _refuse_if(resource.getrlimit(resource.RLIMIT_CORE) == (0, 0))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _any(*calls: Callable[[], object]) -> None:
    """Returns if at least one of the calls works.

    Raises:
        PermissionError: none of them works.
    """
    for call in calls:
        with suppress(OSError):
            call()
            return
    raise PermissionError


def _succeed(answer: int) -> int:
    if answer < 0:
        raise PermissionError
    return answer


def _refuse_if(refused: bool) -> None:  # noqa: FBT001  (what it says)
    if refused:
        raise PermissionError


ATTEMPTS: Final[dict[str, Callable[[Path, int], None]]] = {
    "read other files": _read,
    "write files": _write,
    "truncate files": _truncate,
    "truncate open files": _set_length,
    "make files": _make,
    "run programs": _start_program,
    "start processes": _start_process,
    "signal other processes": _signal,
    "have other processes signalled": _have_signalled,
    "outlive the worker": _outlive,
    "open local sockets": _connect_locally,
    "open raw sockets": _speak_raw,
    "listen on a port": _listen,
    "keep memory beyond their limit": _keep_memory,
    "watch the files of others": _watch_files,
    "write to the worker's output": _write_to_worker,
    "reach a terminal": _reach_terminal,
    "inherit open files": _inherit,
    "use capabilities": _use_capabilities,
    "gain privileges": _gain_rights,
    "leave core files": _dump,
}


def main() -> None:
    outside, answer = Path(sys.argv[1]), int(sys.argv[2])
    refused = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt(outside, answer)
        except OSError:
            refused.append(name)
    os.pwrite(answer, json.dumps(refused).encode(), 0)


if __name__ == "__main__":
    main()
