"""Runs all web requests of a loader: thousands of libcurl transfers at once, in one loop.

`worker.loader.fetch.fetcher` calls `ask`. libcurl keeps connections, TLS sessions and the parsed
authorities while the loader lives.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import pycurl

from worker.loader.fetch.head import MOST_HEAD_BYTES
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.settings import FetchSettings
from worker.loader.fetch.transfer import Request, Response, Transfer

INTERESTS: Final = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
# Chunked bodies also contain the lengths of the chunks.
CHUNK_OVERHEAD: Final = 1 + 1 / 8
# The place of tcpi_bytes_received in <linux/tcp.h>, since Linux 4.1.
_RECEIVED: Final = struct.Struct("128xQ")

Then = Callable[[Response | Exception], object]


class Web:
    """Owns the transfers. Use it in the loop's thread."""

    def __init__(self, loop: Loop, settings: FetchSettings, *, connections: int) -> None:
        """`connections` is the most that may be in use or kept for later requests."""
        self._loop = loop
        self._settings = settings
        self._running: dict[pycurl.Curl, tuple[Transfer, Then]] = {}
        self._idle: list[Transfer] = []
        self._begun: list[Transfer] = []
        """Transfers whose chunked bodies have just begun."""
        self._chunked: dict[int, tuple[Transfer, int]] = {}
        """Transfers by descriptor, with the number of bytes that the kernel may count there."""
        self._most_bytes = MOST_HEAD_BYTES + round(settings.max_image_bytes * CHUNK_OVERHEAD)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_alarm)

    def ask(self, request: Request, then: Then) -> None:
        """Starts a request, and calls back once with its result, at the latest at its deadline."""
        try:
            transfer = self._idle.pop() if self._idle else self._make_transfer()
            transfer.begin(request)
            self._multi.add_handle(transfer.curl)
        except Exception as error:  # noqa: BLE001  (too late, or no memory: only this image)
            then(error)
            return
        self._running[transfer.curl] = transfer, then

    def _watch(self, what: int, descriptor: int, *_: object) -> None:
        """Called by libcurl for each socket that it waits for."""
        if what == pycurl.POLL_REMOVE:
            self._loop.unwatch(descriptor)
        else:
            self._loop.watch(
                descriptor, INTERESTS[what], lambda events: self._act(descriptor, events)
            )

    def _set_alarm(self, wait_ms: int) -> None:
        """Called by libcurl to set its only timer."""
        at = time.monotonic() + wait_ms / 1000
        ring = lambda: self._act(pycurl.SOCKET_TIMEOUT, 0)  # noqa: E731
        self._loop.set_alarm(None if wait_ms < 0 else (at, ring))

    def _act(self, descriptor: int, events: int) -> None:
        ready = pycurl.CSELECT_IN if events & (select.EPOLLIN | select.EPOLLHUP) else 0
        ready |= pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
        ready |= pycurl.CSELECT_ERR if events & select.EPOLLERR else 0
        self._multi.socket_action(descriptor, ready)
        self._collect()
        self._bound_chunks(descriptor)

    def _bound_chunks(self, descriptor: int) -> None:
        """Ends a transfer that has received too many bytes. libcurl only counts the bytes of the
        body, but chunks may have endless extensions.
        """
        while self._begun:
            transfer = self._begun.pop()
            transfer.descriptor = opened = transfer.curl.getinfo(pycurl.ACTIVESOCKET)
            if transfer.curl in self._running and opened >= 0:
                self._chunked[opened] = transfer, received_bytes(opened) + self._most_bytes
        bounded, most_bytes = self._chunked.get(descriptor, (None, 0))
        if bounded is not None and received_bytes(descriptor) > most_bytes:
            self._end(bounded.curl, pycurl.E_FILESIZE_EXCEEDED, "")

    def _collect(self) -> None:
        """Ends the transfers that libcurl has finished."""
        more = 1
        while more:
            more, good, bad = self._multi.info_read()
            for curl in good:
                self._end(curl, 0, "")
            for curl, code, words in bad:
                self._end(curl, code, words)

    def _end(self, curl: pycurl.Curl, code: int, words: str) -> None:
        transfer, then = self._running.pop(curl)
        self._chunked.pop(transfer.descriptor, None)
        self._multi.remove_handle(curl)
        came: Response | Exception
        try:
            came = transfer.response(code, words)
        except Exception as error:  # noqa: BLE001  (the fetch gets it)
            came = error
        self._idle.append(transfer)
        then(came)

    def _make_transfer(self) -> Transfer:
        return Transfer(self._settings, self._begun.append)


def received_bytes(descriptor: int) -> int:
    """The bytes received on this connection so far, by the kernel's count; 0 if it has none."""
    connection = socket.socket(fileno=descriptor)
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
    finally:
        connection.detach()  # it belongs to libcurl
    return int(_RECEIVED.unpack(info)[0]) if len(info) == _RECEIVED.size else 0
