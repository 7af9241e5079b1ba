"""Where a loader starts: what it does not need is taken away before anything else is loaded.

`worker.loader.sandbox.spawn` starts `python -m worker.loader.sandbox.start PARENT PERMITTED FIRST
MODULE ARGUMENTS…`, and what MODULE does, `worker.loader.program` as a rule, it does inside: it
reads its libraries, the files that name servers and certificates, and the paths that stand in
PERMITTED; it writes no file, starts no process, opens no local socket and touches no other process.
All else comes later because Landlock leaves threads alone that run already. FIRST, if it is not
empty, is loaded before, since it could not be inside. An empty PERMITTED takes nothing away. The
kernel ends this process when PARENT, the worker, ends.

What the kernel does not have is done without; `worker.loader.sandbox.protections` finds out what
holds.
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

# What is imported inside: it may be anywhere, if it is developed where it stands.
PACKAGES: Final = ("contract", "resnext", "worker")
LIBRARIES: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/nix/store", "/gnu/store"),  # where NixOS and Guix keep all of them
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/proc/stat", "/sys/devices/system"),
    *("/dev/null", "/dev/urandom"),
)
# Next to them there may be private keys: no folder that could hold one.
CERTIFICATES: Final = (
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust/extracted", "/etc/crypto-policies"),
    *("/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
)
CERTIFICATE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
TIME: Final = ("/etc/localtime", "/usr/share/zoneinfo")
# Files that are replaced while a loader runs, when the machine comes into another network.
NAMES: Final = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
)
# What a link to one of them leads to may be renewed as often as its folder's owner likes.
NAMES_FOLDER: Final = Path("/run")
LOOK_AGAIN_S: Final = 10.0


def read_permitted(descriptor: int) -> list[Path]:
    """Closes it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return [Path(os.fsdecode(path)) for path in file.read().split(b"\0")[:-1]]


def enter(permitted: Iterable[Path]) -> None:
    """For good, and as far as the kernel goes along."""
    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    watched = [*map(Path, NAMES), *permitted]
    marks = _marks(watched)
    readable = [*_needed(), *watched]
    capabilities.give_up(readable)
    confined = _confine(readable)
    seccomp.install()
    if confined:  # the first thread besides, now that it is inside as well
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
"""Which file it is: device and inode, or none at all."""


def _marks(paths: Iterable[Path]) -> list[_Mark]:
    return [_mark(path) for path in paths]


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _leave_when_replaced(paths: list[Path], marks: list[_Mark]) -> None:
    """It is the file or folder that is permitted and not its name. One that is put in its place,
    or mounted there, can be read by the next loader, which the worker starts when this one has
    gone.
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
