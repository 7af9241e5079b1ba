"""Reads the files that file URIs name, if they are in a permitted folder.

`worker.loader.fetch.fetcher` calls this in a helper thread, because a file on a server that is down
may hang. Other programs may change files and links meanwhile. Each such race ends with the right
file or a failure, never with a file outside the permitted folders.
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

# If a link or a file is replaced while its path is resolved and opened, the next try finds the
# replacement.
TRIES: Final = 3
_REPLACED: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ESTALE})


def read_file(uri: str, roots: Sequence[Path], *, max_bytes: int) -> bytes:
    """Returns the file's bytes.

    Args:
        uri: the file's URI.
        roots: the files and folders that are permitted.
        max_bytes: the largest permitted size.

    Raises:
        FetchError: the file is outside the roots, not regular, too large, or cannot be read.
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
    """Returns the file's bytes, but at most one more than `max_bytes`.

    Raises:
        FetchError: the file is outside the roots, or not regular.
        OSError: the file cannot be read.
    """
    path = find_file(uri, roots)
    if isinstance(path, Failure):
        raise FetchError(path)
    with os.fdopen(_open(path, roots), "rb") as file:
        return file.read(max_bytes + 1)


def _open(path: Path, roots: Sequence[Path]) -> int:
    """Returns a descriptor of a regular file. Opening a pipe or a device could hang or do
    something. So this first opens only the path (O_PATH), and checks what it names.
    """
    named = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        mode = os.fstat(named).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "a link since its path was resolved")
        if not stat.S_ISREG(mode):
            raise FetchError(Failure("unreadable", "not a regular file"))
        by_descriptor = Path(f"/proc/self/fd/{named}")
        # A folder in the path may have become a link since the path was resolved.
        if not is_under(by_descriptor.readlink(), roots):
            raise FetchError(Failure("blocked_path", "replaced by a link while it was opened"))
        return os.open(by_descriptor, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(named)


def _as_fetch_error(error: OSError) -> FetchError:
    if isinstance(error, FileNotFoundError):
        return FetchError(Failure("not_found", "the file does not exist"))
    if isinstance(error, TimeoutError):
        return FetchError(Failure("timeout", "while reading the file"))
    if error.errno in _REPLACED:
        return FetchError(Failure("timeout", "replaced each time it was opened"))
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return FetchError(NO_DESCRIPTORS)
    return FetchError(Failure("unreadable", error.strerror or ""))
