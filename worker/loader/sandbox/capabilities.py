"""Capabilities, the parts of root's power: a process gives them up for good.

`worker.loader.sandbox.start` calls `give_up` before a loader has any other thread: each thread has
its own. A worker that does not run as root, or in a container that drops them, has none. See
capabilities(7).
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
"""CAP_DAC_READ_SEARCH: permissions do not keep it from reading files and folders."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Sets(ctypes.Structure):
    """The lower and the upper 32 capabilities are two of these."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def give_up(readable: Iterable[Path]) -> None:
    """Drops every capability. `READ_ALL_FILES` is kept if the process must read one of these
    paths and cannot without it: root may classify what lies in another user's private folder.
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
    """The capabilities that this thread can use, a bit each."""
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
