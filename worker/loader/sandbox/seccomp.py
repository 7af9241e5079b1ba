"""A seccomp filter that refuses system calls in loaders, as a short program in classic BPF.

`worker.loader.sandbox.start` calls `install`. The filter refuses calls that no fetch and no decoder
needs, and permits all others. A list of the needed calls would differ with each version of each
library. A refused call fails with an error, so libraries that can do without it continue.
(libseccomp would write the same program, but is not on the index: its Python packages look for the
system's library.)
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worker.loader.sandbox.prctl import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    PR_SET_PTRACER,
    PR_SET_SECCOMP,
    prctl,
)


@dataclass(frozen=True)
class _Machine:
    audit: int
    """AUDIT_ARCH_… in <linux/audit.h>."""
    column: int
    """The column in the tables below."""


_MACHINES: Final = {"x86_64": _Machine(0xC000_003E, 0), "aarch64": _Machine(0xC000_00B7, 1)}
# The x32 ABI has the same calls under other numbers, from this one on. ARM does not use them.
_X32: Final = 0x4000_0000
_NONE: Final = -1

# Numbers on x86_64 and on aarch64, from <asm/unistd.h>. Those above 423 are the same everywhere.
_REFUSED: Final = {
    # Programs and processes. Threads use clone, see below.
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, _NONE), "vfork": (58, _NONE),
    # Other processes: their memory, their descriptors, signals to them.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "process_madvise": (440, 440), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "setsid": (112, 157), "setpgid": (109, 154),
    # A loader makes connections but accepts none.
    "listen": (50, 201),
    # Owner, mode, times and attributes of files, which Landlock does not control, and their
    # lengths, which it controls only since Linux 6.2, and never for open files.
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "chmod": (90, _NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, _NONE), "fchown": (93, 55), "lchown": (94, _NONE), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "utime": (132, _NONE), "utimes": (235, _NONE),
    "futimesat": (261, _NONE), "utimensat": (280, 88),
    # Memory that the process's limit does not count. Some kinds would remain after its end.
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semctl": (66, 191), "semop": (65, 193), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgctl": (71, 187), "msgrcv": (70, 188), "msgsnd": (69, 189),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
    # Mounts and namespaces.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # Large parts of the kernel that attacks often use. io_uring makes calls that no filter sees.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "capset": (126, 91), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # The machine itself.
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "quotactl": (179, 60), "personality": (135, 92), "ioperm": (173, _NONE), "iopl": (172, _NONE),
}  # fmt: skip

# Calls that are refused depending on their arguments.
_CLONE: Final = (56, 220)
_CLONE3: Final = 435
_OPENAT2: Final = 437
_CLONE_THREAD: Final = 0x0001_0000
_SOCKET: Final = (41, 198)
_SOCKETPAIR: Final = (53, 199)
_KILL: Final = (62, 129)
_TGKILL: Final = (234, 131)
# Calls whose first argument is the process that they change: prlimit64, sched_setparam,
# sched_setscheduler, sched_setaffinity, sched_setattr.
_OF_PROCESS: Final = ((302, 261), (142, 118), (144, 119), (203, 122), (314, 274))
_SETPRIORITY: Final = (141, 140)
_OPEN: Final = (2, _NONE)
_OPENAT: Final = (257, 56)
_FCNTL: Final = (72, 25)
# With these the kernel would send any signal to another process when a socket has something to
# read.
_OWNING: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_IOCTL: Final = (16, 29)
_OWNING_BY_IOCTL: Final = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
# These write to a terminal as if its user had typed, or take over a terminal.
_TYPING: Final = (0x5412, 0x541C, 0x540E)  # TIOCSTI, TIOCLINUX, TIOCSCTTY
_PRCTL: Final = (157, 167)
# With these it could outlive its worker, or let other processes read its memory.
_OF_ITSELF: Final = (PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_PTRACER)
# Only TCP and UDP. The resolver would also ask a netlink socket for the machine's own addresses, to
# sort those of a name. Without it, it assumes that the machine has all kinds of addresses.
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_FLAGS: Final = (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK)
_TYPES: Final = tuple(
    {
        kind | one | other
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        for one in _FLAGS
        for other in _FLAGS
    }
)
_PROTOCOLS: Final = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)

# <linux/filter.h>, <linux/seccomp.h>
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_HAS_BITS: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF_0000
_FAIL_WITH: Final = 0x0005_0000
_MODE_FILTER: Final = 2
# struct seccomp_data: call, architecture, address, and six arguments of 8 bytes. The filter only
# reads the lower four bytes of an argument.
_CALL_AT: Final = 0
_MACHINE_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_Step = tuple[int, int, int, int]
"""Code, jump if true, jump if false, value."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install() -> bool:
    """Installs the filter, for good, in this thread and everything that it starts.

    `PR_SET_NO_NEW_PRIVS` must be set.

    Returns:
        False if the kernel has no seccomp, or the processor is of another kind.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    steps = [struct.pack("=HBBI", *step) for step in _steps(machine)]
    program = _Program(len(steps), b"".join(steps))
    return prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)) == 0


def _steps(machine: _Machine) -> list[_Step]:
    column, refuse, own = machine.column, _fail(errno.EPERM), os.getpid()
    steps = [(_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 1, 0, machine.audit), refuse]
    steps += [(_LOAD, 0, 0, _CALL_AT), (_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in _REFUSED.values():
        if numbers[column] != _NONE:
            steps += [(_EQUAL, 0, 1, numbers[column]), refuse]
    # Their flags are in memory that a filter cannot read. Without them, libraries use clone and
    # openat.
    for number in (_CLONE3, _OPENAT2):
        steps += [(_EQUAL, 0, 1, number), _fail(errno.ENOSYS)]
    steps += _among(_CLONE[column], 0, _HAS_BITS, [_CLONE_THREAD], _allow(), refuse)
    unknown = _fail(errno.EAFNOSUPPORT)
    steps += _only(_SOCKET[column], _FAMILIES, _TYPES, _PROTOCOLS, otherwise=unknown)
    steps += [(_EQUAL, 0, 1, _SOCKETPAIR[column]), unknown]
    steps += _among(_PRCTL[column], 0, _EQUAL, _OF_ITSELF, refuse, _allow())
    # A decoder that aborts sends a signal to itself.
    for call in (_KILL, _TGKILL):
        steps += _only(call[column], [own])
    for call in _OF_PROCESS:
        steps += _only(call[column], [0, own])
    steps += _only(_SETPRIORITY[column], [os.PRIO_PROCESS], [0, own])
    steps += _among(_FCNTL[column], 1, _EQUAL, _OWNING, refuse, _allow())
    steps += _among(_IOCTL[column], 1, _EQUAL, _TYPING + _OWNING_BY_IOCTL, refuse, _allow())
    # O_TRUNC can empty a file that is opened for reading, which Landlock does not always prevent.
    for call, flags in ((_OPEN, 1), (_OPENAT, 2)):
        if call[column] != _NONE:
            steps += _among(call[column], flags, _HAS_BITS, [os.O_TRUNC], refuse, _allow())
    return [*steps, _allow()]


def _among(  # noqa: PLR0913, PLR0917  (like a row of a table)
    call: int, argument: int, test: int, values: Iterable[int], then: _Step, otherwise: _Step
) -> list[_Step]:
    """Steps for one call: `then` if the argument is one of the values, `otherwise` if it is not."""
    load = (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument)
    tests = [step for value in values for step in ((test, 0, 1, value), then)]
    decided = [load, *tests, otherwise]
    return [(_EQUAL, 0, len(decided), call), *decided]


def _only(call: int, *permitted: Sequence[int], otherwise: _Step | None = None) -> list[_Step]:
    """Steps for one call: refuse it unless each of its first arguments is a permitted value."""
    decided = []
    for argument, values in enumerate(permitted):
        decided.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument))
        decided += [(_EQUAL, len(values) - n, 0, value) for n, value in enumerate(values)]
        decided.append(otherwise or _fail(errno.EPERM))
    decided.append(_allow())
    return [(_EQUAL, 0, len(decided), call), *decided]


def _allow() -> _Step:
    return (_RETURN, 0, 0, _ALLOW)


def _fail(number: int) -> _Step:
    return (_RETURN, 0, 0, _FAIL_WITH | number)
