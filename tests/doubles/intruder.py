"""What an attacker would try after taking over a loader; prints a line for each attempt.

tests/integration/sandbox runs it inside a loader, and outside of one to prove that the attempts can
succeed. Usage: `intruder.py FOLDER [ATTEMPT...]`. The folder has a file `secret` and the socket of
a `server`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

# <linux/prctl.h>, <linux/fanotify.h>, <linux/ipc.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
FAN_REPORT_FID = 0x200
IPC_PRIVATE, IPC_RMID = 0, 0
LIBC = ctypes.CDLL(None, use_errno=True)
# Users other than root lack these capabilities outside of a loader, too.
OF_ROOT = {"keep capabilities", "speak ICMP by itself", "read all packets"}


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
        "set an open file's length": lambda: set_length(secret),
        "reserve space in an open file": lambda: reserve_space(secret),
        "join another group": lambda: os.setpgid(0, os.getpgid(parent)),
        "start a session": os.setsid,
        "live on without the parent": lambda: call("prctl", PR_SET_PDEATHSIG, 0),
        "let others read its memory": lambda: call("prctl", PR_SET_DUMPABLE, 1),
        "adopt processes": lambda: call("prctl", PR_SET_CHILD_SUBREAPER, 0),
        "make memory without a limit": lambda: os.close(os.memfd_create("kept")),
        "share memory": lambda: made_and_removed("shm", LIBC.shmget(IPC_PRIVATE, 1, 0o600)),
        "queue messages": lambda: made_and_removed("msg", LIBC.msgget(IPC_PRIVATE, 0o600)),
        "hold semaphores": lambda: made_and_removed("sem", LIBC.semget(IPC_PRIVATE, 1, 0o600)),
        "queue messages by a name": queue_by_name,
        "watch all files": lambda: os.close(call("fanotify_init", FAN_REPORT_FID, os.O_RDONLY)),
        "keep capabilities": capabilities,
        "speak ICMP by itself": lambda: open_socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
        ),
        "read all packets": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "ask about the network": lambda: open_socket(socket.AF_NETLINK, socket.SOCK_DGRAM),
    }


def call(function: str, *arguments: int) -> int:
    return succeed(getattr(LIBC, function)(*map(ctypes.c_ulong, arguments)))


def succeed(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def set_length(path: Path) -> None:
    descriptor = open_file(path)
    os.ftruncate(descriptor, os.fstat(descriptor).st_size)


def reserve_space(path: Path) -> None:
    os.posix_fallocate(open_file(path), 0, 1)


def open_file(path: Path) -> int:
    """Returns a file that is already open, as in a loader; otherwise opens this one."""
    for descriptor in sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()):
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
        except OSError:
            continue
    return os.open(path, os.O_RDWR)


def made_and_removed(kind: str, identifier: int) -> None:
    succeed(identifier)
    command = [identifier, IPC_RMID, None] if kind != "sem" else [identifier, 0, IPC_RMID]
    getattr(LIBC, f"{kind}ctl")(*command)


def queue_by_name() -> None:
    name = f"/resnext-{os.getpid()}".encode()
    flags, mode = os.O_CREAT | os.O_RDWR, 0o600
    os.close(succeed(LIBC.mq_open(name, flags, mode, None)))
    LIBC.mq_unlink(name)


def capabilities() -> None:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    if not any(int(line.split()[1], 16) for line in lines if line.startswith(("CapPrm", "CapEff"))):
        raise PermissionError(errno.EPERM, "there are none")


def open_socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


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
    """Runs an attempt in a new thread.

    So attempts made before and after the sandbox starts run alike.
    """
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


def main(folder: Path, names: Iterable[str] = ()) -> None:
    known = attempts(folder)
    for name in tuple(names) or known:
        os.write(2, f"intruder: {name}: {outcome(known[name])}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
