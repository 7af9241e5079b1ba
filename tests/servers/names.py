"""A name server for the tests, and a `getaddrinfo` that makes this process or a loader ask it.

`socket.getaddrinfo` stays the machine's, as workers use it. In each thread that looks up a name,
glibc is told which server to ask (resolver(3)). It is also told to ask DNS for all names outside
the machine's hosts file, whatever else is configured.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests' loaders load this file as well
    import pytest

TYPES = {1: 4, 28: 6}  # A and AAAA, with the IP version of their addresses
SUCCESS, NO_SUCH_NAME = 0x8180, 0x8183
HEADER = struct.Struct("!6H")
ANSWER = struct.Struct("!HHHIH")
THE_QUESTIONS_NAME = 0xC00C
# Flags from glibc's resolv.h: the configuration has been read, and must not be read again over what
# is set here.
INITIALISED, NO_RELOAD = 0x1, 0x0200_0000

Answers = tuple[str, ...]
"""The addresses of one answer. IPv4 and IPv6 are asked for separately."""


class NameServer:
    """Owns the names. The n-th look-up of a name gets its n-th answer; later ones get the last."""

    def __init__(self, connection: socket.socket) -> None:
        self.port: int = connection.getsockname()[1]
        self.asked: Counter[tuple[str, int]] = Counter()
        self.repeated: set[str] = set()
        """Names with a question that came twice. It may have been a new look-up all the same, since
        one in 65,536 has the number of the look-up before it.
        """
        self._names: dict[str, tuple[Answers, ...]] = {}
        self._numbers: dict[bytes, int] = {}
        self._connection = connection

    def has(self, name: str, *answers: Answers) -> None:
        self._names[name.lower()] = answers

    def serve(self) -> None:
        """Answers questions until an empty packet arrives."""
        while True:
            packet, client = self._connection.recvfrom(512)
            if not packet:
                return
            self._connection.sendto(self._answer(packet), client)

    def _answer(self, packet: bytes) -> bytes:
        number, *_ = HEADER.unpack_from(packet)
        name, end = _read_name(packet, HEADER.size)
        (kind,) = struct.unpack_from("!H", packet, end)
        question = packet[HEADER.size : end + 4]
        if name not in self._names:
            return HEADER.pack(number, NO_SUCH_NAME, 1, 0, 0, 0) + question
        answers = self._names[name]
        # A question with the same number is a repetition, not a new question.
        if packet not in self._numbers:
            self._numbers[packet] = self.asked[name, kind]
            self.asked[name, kind] += 1
        else:
            self.repeated.add(name)
        nth = min(self._numbers[packet], len(answers) - 1)
        found = [ipaddress.ip_address(address) for address in answers[nth]]
        packed = [one.packed for one in found if one.version == TYPES.get(kind)]
        records = [
            ANSWER.pack(THE_QUESTIONS_NAME, kind, 1, 0, len(address)) + address
            for address in packed
        ]
        return HEADER.pack(number, SUCCESS, 1, len(records), 0, 0) + question + b"".join(records)


def _read_name(packet: bytes, begin: int) -> tuple[str, int]:
    """Returns the name in lower case, and where it ends."""
    labels = []
    while length := packet[begin]:
        labels.append(packet[begin + 1 : begin + 1 + length].decode().lower())
        begin += 1 + length
    return ".".join(labels), begin + 1


class _SocketAddress(ctypes.Structure):
    _fields_ = (
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_uint16.__ctype_be__),
        ("address", ctypes.c_uint8 * 4),
        ("zero", ctypes.c_uint8 * 8),
    )


class _ResolverState(ctypes.Structure):
    """The beginning of glibc's `struct __res_state`, of which each thread has its own."""

    _fields_ = (
        ("retransmit_after_s", ctypes.c_int),
        ("tries", ctypes.c_int),
        ("options", ctypes.c_ulong),
        ("servers_count", ctypes.c_int),
        ("servers", _SocketAddress * 3),
    )


@contextmanager
def answering_names() -> Iterator[NameServer]:
    """Yields a name server that nothing asks yet; see `asking`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.bind(("127.0.0.1", 0))
        server = NameServer(connection)
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", connection.getsockname())
        thread.join()


@contextmanager
def serving_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """Yields a name server. In this context it is the only one that this process asks."""
    with answering_names() as server, monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", asking(server.port))
        yield server


def asking(port: int) -> Any:
    """Returns this process's `socket.getaddrinfo`, but asking the name server at this port."""
    libc, look_up = ctypes.CDLL(None), socket.getaddrinfo
    libc.__res_state.restype = ctypes.POINTER(_ResolverState)
    assert libc.__nss_configure_lookup(b"hosts", b"files dns") == 0

    def ask(*arguments: Any, **options: Any) -> Any:
        state = libc.__res_state().contents
        if not state.options & INITIALISED:  # the state is left over from a thread that has ended
            assert libc.__res_init() == 0
        state.options |= NO_RELOAD
        state.servers_count, state.tries = 1, 2
        state.servers[0] = _SocketAddress(socket.AF_INET, port, (127, 0, 0, 1))
        return look_up(*arguments, **options)

    return ask
