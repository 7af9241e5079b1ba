"""Opens files in the cache for writing, such as downloads and locks, without following links.

Other users may be able to write to the cache's folder, for example /tmp. If one of them puts a link
there, a download would overwrite the link's target.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedRandom
from pathlib import Path
from typing import Final

# Without O_NONBLOCK, opening a pipe with that name would hang.
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_own(path: Path) -> BufferedRandom:
    """Opens a file for reading and writing, at its beginning. Creates it if it does not exist.

    Raises:
        OSError: the path is a link or not a file, belongs to another user, or cannot be opened.
    """
    return os.fdopen(open_own_descriptor(path), "r+b")


def open_own_descriptor(path: Path, mode: int = 0o666) -> int:
    """Like `open_own`, but returns a descriptor. A new file gets `mode`, less the umask.

    Raises:
        OSError: as in `open_own`.
    """
    descriptor = open_unfollowed(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        _check(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_text(path: Path) -> str:
    """Returns the file's text, or an empty string if it does not exist. Any user may own it.

    Raises:
        OSError: the path is a link or not a file, or cannot be read.
    """
    try:
        descriptor = open_unfollowed(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        _check_kind(path, os.fstat(descriptor))
        return file.read().decode(errors="replace")


def open_unfollowed(path: Path, flags: int, mode: int = 0o666) -> int:
    """Opens the path without following a link, and returns a descriptor.

    Raises:
        OSError: the path is a link, or cannot be opened.
    """
    try:
        return os.open(path, flags | _FLAGS, mode=mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "is a link, which this program does not follow") from error
        raise


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "is not a file")


def _check(path: Path, found: os.stat_result) -> None:
    _check_kind(path, found)
    if found.st_uid != os.geteuid():
        raise _refused(path, f"belongs to another user (uid {found.st_uid})")
    if found.st_nlink > 1:
        raise _refused(path, "is a hard link to a file with another name")


def _refused(path: Path, why: str) -> PermissionError:
    return PermissionError(f"{path.name} {why}: remove it")
