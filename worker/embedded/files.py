"""Locks on files, which only one process of this machine can hold at once."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from resnext.weights.own_file import open_unfollowed

RETRY_S: Final = 0.05


@contextmanager
def locked(path: Path, *, within_s: float = 0.0) -> Iterator[int]:
    """Holds the file's lock, and yields its descriptor. A child that inherits it holds it as well.

    Raises:
        TimeoutError: another process holds it.
        OSError: it is a link, or cannot be opened.
    """
    descriptor = open_unfollowed(path, os.O_RDWR | os.O_CREAT, mode=0o600)
    try:
        _lock(descriptor, path, time.monotonic() + within_s)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{path} is locked by another process") from error
            time.sleep(RETRY_S)
        else:
            return
