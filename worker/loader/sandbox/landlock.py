"""Landlock, by which a process gives up files for good: Linux' three system calls, by ctypes.

`worker.loader.sandbox.start` calls `confine` before a loader has any other thread: what was started
earlier would stay as it was. The packages for it that are on the index are first versions that
nobody else uses; these calls have had the same numbers and structures on every machine since Linux
5.13. See https://docs.kernel.org/userspace-api/landlock.html for all that is named here.
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
# How many rights of files there are, by the version of the interface: what is not handled stays
# allowed, and what the kernel does not know is an error.
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NEWEST: Final = 5


class _Ruleset(ctypes.Structure):
    """Of files alone: newer versions know ports, sockets and signals, which
    `worker.loader.sandbox.seccomp` refuses on older kernels as well.
    """

    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # what `_pack_` implies, and what Python 3.14 wants to be told
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Of the kernel's interface; 0: there is none, or it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:
        return 0


def confine(readable: Iterable[Path]) -> None:
    """From here on this thread, and all that it starts, reads what lies under these paths, and
    writes, makes, removes and executes no file at all. Descriptors that are open stay as they are.

    `PR_SET_NO_NEW_PRIVS` must have been set. A path that is not there is left out.

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
    """
    Raises:
        OSError: what the kernel answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
