"""What Flower calls a worker: host and device, the same in each of its lives.

SQL has another name for each life, since a lease must not outlive its holder
(`worker.process.identity`). `worker.main` takes this one when it has the device.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from itertools import count
from typing import Final

PROGRAM: Final = "resnextq"
LONGEST_ADDRESS: Final = 107
"""Bytes after the NUL of an abstract socket's address; unix(7)."""


class NodeName:
    """A name that no other worker of this machine has, `resnextq@host-cuda0`, until it is closed.

    It is held by a socket of that name in Linux's abstract namespace, which is one for each
    container and machine, as host names are. The kernel frees it when the process ends.
    """

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self.name = next(name for name in _candidates(device) if self._is_held(name))

    def __str__(self) -> str:
        return self.name

    def close(self) -> None:
        self._socket.close()

    def _is_held(self, name: str) -> bool:
        """Where the system has no such sockets, the first name is taken unheld."""
        try:
            self._socket.bind(b"\0" + name.encode()[-LONGEST_ADDRESS:])
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


def _candidates(device: str) -> Iterator[str]:
    first = f"{PROGRAM}@{socket.gethostname()}-{re.sub(r'[^A-Za-z0-9]', '', device)}"
    yield first
    for number in count(2):
        yield f"{first}-{number}"
