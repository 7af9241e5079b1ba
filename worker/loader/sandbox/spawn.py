"""Starts a loader, and decides what it inherits from its worker.

`worker.pool.process` starts loaders with this, and `worker.loader.sandbox.protections` starts a
process that tests the sandbox. The new process begins in `worker.loader.sandbox.start`.
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
    """Starts one of our modules in a new session, so that it has no terminal.

    It has no standard input and output. The caller must read its standard error, which is a pipe.
    It ends with the thread that called this, so that thread must live as long.

    Args:
        module: see `command`.
        arguments: the module's arguments.
        inherited: the only descriptors of this process that it gets, besides `permitted`.
        permitted: see `command`.
        variables: its whole environment.
        first: see `command`.

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
    """Returns the command that starts one of our modules: in the sandbox, unless `permitted` is
    None.

    Args:
        module: a module that can run as `__main__`.
        arguments: the module's arguments.
        permitted: the descriptor from `write_permitted`, which the process must inherit.
        first: a module that cannot be loaded inside. It must start no threads.
    """
    inside = "" if permitted is None else str(permitted)
    start = [sys.executable, "-P", "-m", "worker.loader.sandbox.start"]
    return [*start, str(os.getpid()), inside, first, module, *arguments]


def write_permitted(paths: Iterable[Path]) -> int:
    """Returns a descriptor of memory with these paths. They might not fit into the arguments."""
    descriptor = os.memfd_create("resnext-permitted", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.writelines(os.fsencode(path) + b"\0" for path in dict.fromkeys(paths))
    return descriptor
