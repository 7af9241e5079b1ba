"""Relays TCP connections, plain or with TLS, to a server on a Unix socket, in its own thread."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

CERTIFICATES: Final = Path(__file__).parent / "certificates"
BLOCK_BYTES: Final = 64 * 1024


@contextmanager
def relaying(socket_path: Path, *, tls: bool) -> Iterator[int]:
    """Yields the port on loopback."""
    loop = asyncio.new_event_loop()
    context = _context() if tls else None
    server = loop.run_until_complete(
        asyncio.start_server(_Relay(socket_path).connect, "127.0.0.1", 0, ssl=context)
    )
    thread = threading.Thread(target=loop.run_forever, name="relay")
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        _finish(loop)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "self-signed.pem", CERTIFICATES / "key.pem")
    return context


class _Relay:
    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._socket_path)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        for end in (writer, back):
            end.transport.abort()
            with suppress(OSError):
                await end.wait_closed()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await source.read(BLOCK_BYTES):
            target.write(block)
            await target.drain()
    target.close()


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
