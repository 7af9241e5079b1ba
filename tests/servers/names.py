"""A name server for the tests, and this process's own resolver, or a loader's, asking it.

`socket.getaddrinfo` stays the machine's, as workers use it: glibc is told for each thread that
looks up which server to ask (resolver(3)), and that what is no name of the machine's own is a
matter of DNS, whatever else it is set up to ask.
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

if TYPE_CHECKING:  # loaders of the tests load this file as well
    import pytest

TYPES = {1: 4, 28: 6}  # A and AAAA, and the versions of their addresses
SUCCESS, NO_SUCH_NAME = 0x8180, 0x8183
HEADER = struct.Struct("!6H")
ANSWER = struct.Struct("!HHHIH")
THE_QUESTIONS_NAME = 0xC00C
# Of glibc's resolv.h: the machine's file has been read, and is not read anew over what is set here.
INITIALISED, NO_RELOAD = 0x1, 0x0200_0000

Answers = tuple[str, ...]
"""Addresses of one answer; IPv4 and IPv6 are asked for apart."""


class NameServer:
    """Owns the names. The n-th look-up of one gets its n-th answer, later ones the last."""

    def __init__(self, connection: socket.socket) -> None:
        self.port: int = connection.getsockname()[1]
        self.asked: Counter[tuple[str, int]] = Counter()
        self._names: dict[str, tuple[Answers, ...]] = {}
        self._numbers: dict[bytes, int] = {}
        self._connection = connection

    def has(self, name: str, *answers: Answers) -> None:
        self._names[name.lower()] = answers

    def serve(self) -> None:
        """Until an empty packet comes."""
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
        # A question that is sent again, by its number, is the same one.
        if packet not in self._numbers:
            self._numbers[packet] = self.asked[name, kind]
            self.asked[name, kind] += 1
        nth = min(self._numbers[packet], len(answers) - 1)
        found = [ipaddress.ip_address(address) for address in answers[nth]]
        packed = [one.packed for one in found if one.version == TYPES.get(kind)]
        records = [
            ANSWER.pack(THE_QUESTIONS_NAME, kind, 1, 0, len(address)) + address
            for address in packed
        ]
        return HEADER.pack(number, SUCCESS, 1, len(records), 0, 0) + question + b"".join(records)


def _read_name(packet: bytes, begin: int) -> tuple[str, int]:
    """In lower case, and where it ends."""
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
    """The beginning of glibc's `struct __res_state`, which is a thread's own."""

    _fields_ = (
        ("retransmit_after_s", ctypes.c_int),
        ("tries", ctypes.c_int),
        ("options", ctypes.c_ulong),
        ("servers_count", ctypes.c_int),
        ("servers", _SocketAddress * 3),
    )


@contextmanager
def answering_names() -> Iterator[NameServer]:
    """A server that somebody is still to be told of; see `asking`."""
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
    """While it serves, nothing in this process asks another server for a name."""
    with answering_names() as server, monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", asking(server.port))
        yield server


def asking(port: int) -> Any:
    """`socket.getaddrinfo` of this process, which asks the name server at this port."""
    libc, look_up = ctypes.CDLL(None), socket.getaddrinfo
    libc.__res_state.restype = ctypes.POINTER(_ResolverState)
    assert libc.__nss_configure_lookup(b"hosts", b"files dns") == 0

    def ask(*arguments: Any, **options: Any) -> Any:
        state = libc.__res_state().contents
        if not state.options & INITIALISED:  # what it holds is of a thread that has ended
            assert libc.__res_init() == 0
        state.options |= NO_RELOAD
        state.servers_count, state.tries = 1, 2
        state.servers[0] = _SocketAddress(socket.AF_INET, port, (127, 0, 0, 1))
        return look_up(*arguments, **options)

    return ask
