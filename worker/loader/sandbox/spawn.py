"""Starts a loader: what it gets from its worker, and what it does not.

`worker.pool.process` starts loaders by this, and `worker.loader.sandbox.protections` a process
that tries out what a loader can do. What goes on in there begins in `worker.loader.sandbox.start`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def spawn(
    module: str,
    *arguments: str,
    inherited: Sequence[int],
    permitted: int | None,
    variables: Mapping[str, str],
    first: str = "",
) -> subprocess.Popen[bytes]:
    """Starts a module of ours in a session of its own, so that it has no terminal.

    It reads nothing and writes nowhere, but to the pipe of its standard error, which the caller
    reads. It ends with the thread that called this: that thread must live as long.

    Args:
        module: as in `command`.
        arguments: of the module.
        inherited: the only descriptors of this process that it gets, besides `permitted`.
        permitted: as in `command`.
        variables: all of its environment.
        first: as in `command`.

    Raises:
        OSError: the system permits no more processes, memory or descriptors.
    """
    return subprocess.Popen(
        command(module, *arguments, permitted=permitted, first=first),
        pass_fds=inherited if permitted is None else (*inherited, permitted),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def command(module: str, *arguments: str, permitted: int | None, first: str = "") -> list[str]:
    """What starts a module of ours inside, or outside where `permitted` is None.

    Args:
        module: with a part that runs as `__main__`.
        arguments: of the module.
        permitted: the descriptor of `write_permitted`, which the process must inherit.
        first: a module that cannot be loaded inside, and starts no threads.
    """
    inside = "" if permitted is None else str(permitted)
    start = [sys.executable, "-P", "-m", "worker.loader.sandbox.start"]
    return [*start, str(os.getpid()), inside, first, module, *arguments]


def write_permitted(paths: Iterable[Path]) -> int:
    """A descriptor of memory with these paths in it: there may be more than fit elsewhere."""
    descriptor = os.memfd_create("resnext-permitted", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.writelines(os.fsencode(path) + b"\0" for path in dict.fromkeys(paths))
    return descriptor
