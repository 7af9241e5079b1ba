"""Reads the files that file URIs name, if they lie under a permitted folder.

`worker.loader.fetch.fetcher` calls this in a helper thread, since a file on a server that is away
may hang. Others may change files and links meanwhile; each race ends in the right file or in a
failure, and never outside the permitted folders.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contract.failure import Failure
from contract.uris import find_file, is_under
from worker.loader.fetch.failures import NO_DESCRIPTORS, FetchError

# If a link or a file is replaced while its path is resolved and opened, the next try finds the new
# one.
TRIES: Final = 3
_REPLACED: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ESTALE})


def read_file(uri: str, roots: Sequence[Path], *, max_bytes: int) -> bytes:
    """
    Args:
        uri: of a file.
        roots: files and folders that are permitted.
        max_bytes: what a file may have.

    Raises:
        FetchError: it is outside the roots, no regular file, too large, or cannot be read.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            body = _read(uri, roots, max_bytes)
        except OSError as error:
            if error.errno not in _REPLACED or not tries_left:
                raise _as_fetch_error(error) from error
        else:
            if len(body) > max_bytes:
                raise FetchError(Failure("too_large", f"more than {max_bytes} bytes"))
            return body
    raise AssertionError("the last try returns or raises")


def _read(uri: str, roots: Sequence[Path], max_bytes: int) -> bytes:
    """One byte more than `max_bytes` at most.

    Raises:
        FetchError: it is outside the roots, or no regular file.
        OSError: it cannot be read.
    """
    path = find_file(uri, roots)
    if isinstance(path, Failure):
        raise FetchError(path)
    with os.fdopen(_open(path, roots), "rb") as file:
        return file.read(max_bytes + 1)


def _open(path: Path, roots: Sequence[Path]) -> int:
    """A descriptor of a regular file. Pipes and devices could hang, never end, or do something
    when they are opened; so the path is only named first (O_PATH), and what it names is checked.
    """
    named = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        mode = os.fstat(named).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "a link since its path was resolved")
        if not stat.S_ISREG(mode):
            raise FetchError(Failure("unreadable", "not a regular file"))
        by_descriptor = Path(f"/proc/self/fd/{named}")
        # A folder on the way may have become a link since the path was resolved.
        if not is_under(by_descriptor.readlink(), roots):
            raise FetchError(Failure("blocked_path", "replaced by a link while it was opened"))
        return os.open(by_descriptor, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(named)


def _as_fetch_error(error: OSError) -> FetchError:
    if isinstance(error, FileNotFoundError):
        return FetchError(Failure("not_found", "there is no such file"))
    if isinstance(error, TimeoutError):
        return FetchError(Failure("timeout", "reading the file"))
    if error.errno in _REPLACED:
        return FetchError(Failure("timeout", "replaced each time that it was opened"))
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return FetchError(NO_DESCRIPTORS)
    return FetchError(Failure("unreadable", error.strerror or ""))
