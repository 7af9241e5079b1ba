"""Gives up Linux capabilities, the parts of root's power, for good.

`worker.loader.sandbox.start` calls `give_up` before a loader has other threads, because each thread
has its own capabilities. A worker has none if it does not run as root, or if its container drops
them. See capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from worker.loader.sandbox.prctl import PR_CAP_AMBIENT, PR_CAPBSET_DROP, prctl

# <linux/capability.h>
_VERSION_3: Final = 0x2008_0522
_MOST: Final = 64
_CLEAR_ALL: Final = 4  # of PR_CAP_AMBIENT
READ_ALL_FILES: Final = 1 << 2
"""CAP_DAC_READ_SEARCH: the process may read all files and folders, whatever their permissions."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Sets(ctypes.Structure):
    """The sets of 32 capabilities. Two of these make up all capabilities."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def give_up(readable: Iterable[Path]) -> None:
    """Drops every capability, but keeps `READ_ALL_FILES` if the process cannot read one of these
    paths without it. So root can classify pictures in another user's private folder.
    """
    for number in range(_MOST):
        prctl(PR_CAPBSET_DROP, number)
    prctl(PR_CAP_AMBIENT, _CLEAR_ALL)
    before = permitted()
    if not before:
        return
    there = [path for path in readable if os.path.exists(path)]  # noqa: PTH110  (raises nothing)
    _set(effective=0, permitted_=before)
    kept = 0 if all(map(_may_read, there)) else before & READ_ALL_FILES
    _set(effective=kept, permitted_=kept)


def permitted() -> int:
    """The capabilities that this thread can use, one bit each."""
    sets = (_Sets * 2)()
    if _call("capget", sets) < 0:
        return 0
    lower, upper = sets
    return int(lower.permitted) | int(upper.permitted) << 32


def _set(*, effective: int, permitted_: int) -> None:
    sets = (_Sets * 2)()
    for n, part in enumerate(sets):
        part.effective = effective >> 32 * n & 0xFFFF_FFFF
        part.permitted = permitted_ >> 32 * n & 0xFFFF_FFFF
    _call("capset", sets)


def _call(name: str, sets: ctypes.Array[_Sets]) -> int:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, name):
        return -1
    answer: int = getattr(libc, name)(ctypes.byref(_Header(_VERSION_3, 0)), sets)
    return answer


def _may_read(path: Path) -> bool:
    wanted = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK  # noqa: PTH112  (the same)
    return os.access(path, wanted, effective_ids=True)
