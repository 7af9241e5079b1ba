"""Files that are written in the cache, such as downloads and locks: opened without being led away.

A cache may lie where others can write, such as /tmp. A link that somebody else puts there in the
place of a file would have a download write over what it points to.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedRandom
from pathlib import Path
from typing import Final

# Without O_NONBLOCK a pipe of that name would be waited for.
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_own(path: Path) -> BufferedRandom:
    """The file to read and write, at its beginning; it is made where it is not there.

    Raises:
        OSError: it is a link or no file, another user's, or cannot be opened.
    """
    return os.fdopen(open_own_descriptor(path), "r+b")


def open_own_descriptor(path: Path, mode: int = 0o666) -> int:
    """The same; `mode` is that of a file that is made, less the umask.

    Raises:
        OSError: the same.
    """
    descriptor = open_unfollowed(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        _check(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_text(path: Path) -> str:
    """What it says; empty where it is not there. Whose it is does not count.

    Raises:
        OSError: it is a link or no file, or cannot be read.
    """
    try:
        descriptor = open_unfollowed(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        _check_kind(path, os.fstat(descriptor))
        return file.read().decode(errors="replace")


def open_unfollowed(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of what is at the path itself.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    try:
        return os.open(path, flags | _FLAGS, mode=mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "is a link, which is not followed") from error
        raise


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "is no file")


def _check(path: Path, found: os.stat_result) -> None:
    _check_kind(path, found)
    if found.st_uid != os.geteuid():
        raise _refused(path, f"belongs to another user (uid {found.st_uid})")
    if found.st_nlink > 1:
        raise _refused(path, "is a link to a file that has another name as well")


def _refused(path: Path, why: str) -> PermissionError:
    return PermissionError(f"{path.name} {why}: remove it")
