"""What somebody would try who has taken a loader over; prints what became of each.

Started by tests/integration/sandbox/test_sandbox.py, inside a loader and, to see that it works,
outside, as `intruder.py FOLDER`: there is a `secret` in it, and the socket of a `server`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    secret, parent = folder / "secret", os.getppid()
    return {
        "read a file": secret.read_bytes,
        "read the users": Path("/etc/passwd").read_bytes,
        "list a folder": lambda: list(folder.iterdir()),
        "read the parent's passwords": Path(f"/proc/{parent}/environ").read_bytes,
        "write a file": lambda: secret.write_bytes(b""),
        "truncate a file": lambda: os.truncate(secret, 0),
        "truncate a file by opening": lambda: os.close(os.open(secret, os.O_TRUNC)),
        "set a file's times": lambda: os.utime(secret),
        "make a file": (folder / "made").touch,
        "make a folder": (folder / "folder").mkdir,
        "make a link": lambda: (folder / "link").symlink_to(secret),
        "make a pipe": lambda: os.mkfifo(folder / "pipe"),
        "rename a file": lambda: (folder / "doomed").rename(folder / "named"),
        "remove a file": (folder / "doomed too").unlink,
        "open a file to others": lambda: secret.chmod(0o777),
        "give a file away": lambda: os.chown(secret, os.getuid(), os.getgid()),
        "run a program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        "start a process": fork,
        "signal the parent": lambda: os.kill(parent, 0),
        "have the parent signalled": lambda: own_by_fcntl(parent),
        "have the parent signalled otherwise": lambda: own_by_ioctl(parent),
        "choose the signal": lambda: choose_signal(signal.SIGSEGV),
        "move the parent": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent)),
        "schedule the parent": lambda: os.sched_setscheduler(
            parent, os.sched_getscheduler(parent), os.sched_getparam(parent)
        ),
        "slow the parent down": lambda: slow(os.PRIO_PROCESS, parent),
        "slow the parent's group down": lambda: slow(os.PRIO_PGRP, os.getpgid(parent)),
        "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
        "connect to a local server": lambda: connect(folder / "server"),
        "make a pair of sockets": lambda: [end.close() for end in socket.socketpair()],
        "listen on a port": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    }


def fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def own_by_fcntl(process: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.fcntl(own, fcntl.F_SETOWN, process)


def own_by_ioctl(process: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.ioctl(own, 0x8901, struct.pack("i", process))  # FIOSETOWN


def choose_signal(number: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.fcntl(own, fcntl.F_SETSIG, number)


def slow(kind: int, number: int) -> None:
    os.setpriority(kind, number, os.getpriority(kind, number))


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def outcome(attempt: Callable[[], object]) -> str:
    """Of a thread's, so that what was started before and after the sandbox is tried alike."""
    answers = []

    def attempt_it() -> None:
        try:
            attempt()
            answers.append("done")
        except OSError as error:
            answers.append(errno.errorcode[error.errno])

    thread = threading.Thread(target=attempt_it)
    thread.start()
    thread.join()
    return answers[0]


def main(folder: Path) -> None:
    found = {name: outcome(attempt) for name, attempt in attempts(folder).items()}
    os.write(2, f"intruder: {json.dumps(found)}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
