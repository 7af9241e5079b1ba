"""Landlock: with it a process gives up access to files for good. Calls Linux through ctypes.

`worker.loader.sandbox.start` calls `confine` before a loader has other threads, because threads
that already run are not confined. The Python packages for Landlock are first versions that hardly
any project uses. These three system calls have had the same numbers and structures on every machine
since Linux 5.13. See https://docs.kernel.org/userspace-api/landlock.html for all names.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_ASK_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
# The number of file rights, by the version of the interface. Rights that we do not handle stay
# allowed, and rights that the kernel does not know are an error.
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NEWEST: Final = 5


class _Ruleset(ctypes.Structure):
    """The rules for files. Newer versions also know ports, sockets and signals, but
    `worker.loader.sandbox.seccomp` refuses these on older kernels as well.
    """

    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # `_pack_` implies this, but Python 3.14 wants it explicitly
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's interface; 0 if there is none or it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:
        return 0


def confine(readable: Iterable[Path]) -> None:
    """Confines this thread and everything that it starts. They can read only below these paths, and
    cannot write, create, remove or execute any file. Open descriptors are not affected.

    `PR_SET_NO_NEW_PRIVS` must be set. Paths that do not exist are left out.

    Raises:
        OSError: the kernel has no Landlock; see `version`.
    """
    known = version()
    ruleset = _Ruleset((1 << _RIGHTS[min(known, _NEWEST)]) - 1 if known else 0)
    size = ctypes.c_size_t(ctypes.sizeof(ruleset))
    descriptor = _call(_CREATE_RULESET, ctypes.byref(ruleset), size, ctypes.c_uint32(0))
    try:
        for path in readable:
            _permit(descriptor, path)
        _call(_RESTRICT_SELF, ctypes.c_int(descriptor), ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _permit(ruleset: int, path: Path) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        is_folder = stat.S_ISDIR(os.fstat(parent).st_mode)
        rule = _PathBeneath(_READ_FILE | _READ_DIR if is_folder else _READ_FILE, parent)
        kind = ctypes.c_int(_RULE_PATH_BENEATH)
        _call(_ADD_RULE, ctypes.c_int(ruleset), kind, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    """Makes a system call.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
