"""A web server that needs a new TLS connection, with a full handshake, for every answer.

    python -m benchmarks.rig.tls_web

It prints its port, answers each request with a few bytes, and closes the connection. It issues no
session tickets, so no client can resume a session: each connection costs as much as the first one
to a host. It ends when its standard input ends. Benchmarks start it with `serving_tls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rig.child import Child, say
from tests.servers.tls import HOST, tls_of

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\na picture"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()


async def serve() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    context = tls_of("good")
    context.num_tickets = 0
    server = await asyncio.start_server(answer, HOST, 0, ssl=context, backlog=1024)
    say({"port": server.sockets[0].getsockname()[1]})

    def listen_to_parent() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen_to_parent, daemon=True).start()
    await ended.wait()


@contextlib.contextmanager
def serving_tls() -> Iterator[str]:
    """Runs the server; gives its address."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("benchmarks.rig.tls_web", log=Path(scratch, "log")) as child,
    ):
        yield f"https://{HOST}:{child.read()['port']}"


if __name__ == "__main__":
    asyncio.run(serve())
    os._exit(0)
