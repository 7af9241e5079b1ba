"""The start of a loader: it enters the sandbox before anything else is loaded.

`worker.loader.sandbox.spawn` runs `python -m worker.loader.sandbox.start PARENT PERMITTED FIRST
MODULE ARGUMENTS…`. MODULE, usually `worker.loader.program`, runs inside the sandbox. There it can
read its libraries, the files for names and certificates, and the paths in PERMITTED. It cannot
write files, start processes, open local sockets, or reach other processes. The sandbox comes first,
because Landlock does not affect threads that already run. FIRST, if it is not empty, is loaded
before, because it cannot be loaded inside. With an empty PERMITTED there is no sandbox. The kernel
ends this process when PARENT, the worker, ends.

Protections that the kernel lacks are left out; `worker.loader.sandbox.protections` tests them.
"""

from __future__ import annotations

import os
import resource
import runpy
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from worker.loader.sandbox import capabilities, landlock, seccomp
from worker.loader.sandbox.prctl import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, die_with, prctl

# Packages that are imported inside. In a checkout they may be in any folder.
PACKAGES: Final = ("contract", "resnext", "worker")
LIBRARIES: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/nix/store", "/gnu/store"),  # NixOS and Guix keep all libraries here
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/proc/stat", "/sys/devices/system"),
    *("/dev/null", "/dev/urandom"),
)
# Private keys may be near them, so this lists no folder that could hold one.
CERTIFICATES: Final = (
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust/extracted", "/etc/crypto-policies"),
    *("/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
)
CERTIFICATE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
TIME: Final = ("/etc/localtime", "/usr/share/zoneinfo")
# Files that may be replaced while a loader runs, when the machine moves to another network.
NAMES: Final = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
)
# If one of them links to a file in this folder, that file may be replaced at any time.
NAMES_FOLDER: Final = Path("/run")
LOOK_AGAIN_S: Final = 10.0


def read_permitted(descriptor: int) -> list[Path]:
    """Reads the permitted paths, and closes the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return [Path(os.fsdecode(path)) for path in file.read().split(b"\0")[:-1]]


def enter(permitted: Iterable[Path]) -> None:
    """Enters the sandbox for good, as far as the kernel supports it."""
    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    watched = [*map(Path, NAMES), *permitted]
    marks = _marks(watched)
    readable = [*_needed(), *watched]
    capabilities.give_up(readable)
    confined = _confine(readable)
    seccomp.install()
    if confined:  # the first additional thread, which is now inside as well
        threading.Thread(target=_leave_when_replaced, args=(watched, marks), daemon=True).start()


def _confine(readable: Iterable[Path]) -> bool:
    try:
        landlock.confine(readable)
    except OSError:  # there is no Landlock
        return False
    return True


def _needed() -> Iterator[Path]:
    for name in PACKAGES:
        spec = find_spec(name)
        yield from map(Path, (spec and spec.submodule_search_locations) or ())
    yield from map(Path, sys.path)
    yield Path(sys.base_prefix, "lib")
    yield from map(Path, LIBRARIES + CERTIFICATES + TIME)
    yield from (Path(os.environ[name]) for name in CERTIFICATE_VARIABLES if os.environ.get(name))
    for name in NAMES:
        folder = Path(name).resolve().parent
        if folder.is_relative_to(NAMES_FOLDER):
            yield folder


_Mark = tuple[int, int] | None
"""A file's device and inode, or None if there is no file."""


def _marks(paths: Iterable[Path]) -> list[_Mark]:
    return [_mark(path) for path in paths]


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _leave_when_replaced(paths: list[Path], marks: list[_Mark]) -> None:
    """Ends the process when a permitted file or folder is replaced. Landlock permits files, not
    names, so only the next loader, which the worker then starts, can read the replacement.
    """
    while _marks(paths) == marks:
        time.sleep(LOOK_AGAIN_S)
    os._exit(0)


def main() -> None:
    parent, permitted, first, module, *arguments = sys.argv[1:]
    die_with(int(parent))
    if permitted:
        if first:
            import_module(first)
        enter(read_permitted(int(permitted)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
