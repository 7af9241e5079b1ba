"""A worker's name in Flower: host and device. It is the same after a restart.

The name in SQL is new at each start, so that a lease cannot pass to the next process
(`worker.process.identity`). `worker.main` takes this name once it knows the device.
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
"""The most bytes after the NUL in an abstract socket's address; see unix(7)."""


class NodeName:
    """A name such as `resnextq@host-cuda0`, unique on this machine until `close`.

    A socket in Linux's abstract namespace reserves the name. Each machine and each container has
    its own such namespace, as it has its own host name. The kernel frees the name when the process
    ends.
    """

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self.name = next(name for name in _candidates(device) if self._is_held(name))

    def __str__(self) -> str:
        return self.name

    def close(self) -> None:
        self._socket.close()

    def _is_held(self, name: str) -> bool:
        """Reserves the name. On a system without such sockets, the first name is used as it is."""
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
