"""Certificates for test servers, and TLS in front of a server that has none itself."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

CERTIFICATES: Final = Path(__file__).parent / "certificates"
AUTHORITY: Final = CERTIFICATES / "authority.pem"
HOST: Final = "127.0.0.1"


def tls_of(name: str) -> ssl.SSLContext:
    """Returns a server context with one of `certificates/`. Clients must refuse some of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{name}.pem", CERTIFICATES / "key.pem")
    return context


@contextmanager
def tls_before(socket_path: Path, certificate: str) -> Iterator[int]:
    """Yields the port. `certificate` is a name in `certificates/`."""
    context = tls_of(certificate)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(socket_path)
        opened.extend((writer, to_server))
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(serve, HOST, 0, ssl=context)

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(server, opened), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _end(server: asyncio.Server, opened: list[asyncio.StreamWriter]) -> None:
    server.close()
    for writer in opened:
        writer.transport.abort()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
