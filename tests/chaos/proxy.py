"""A proxy to a server, with connections that can be cut.

After a cut, nothing comes through and neither side notices. Connections from before the cut stay
open and silent until the proxy ends; new ones work once it is mended. The proxy runs in a thread of
the process that makes it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 64 * 1024


class Proxy:
    """Passes connections from a loopback port on to a Unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self.port = 0
        self._socket_path = socket_path
        self._loop = asyncio.new_event_loop()
        self._mended = asyncio.Event()
        self._never = asyncio.Event()
        self._age = 0
        """Connections of an earlier age are cut."""
        self._connections: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._listening.wait()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._cut)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._mended.set)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _cut(self) -> None:
        self._mended.clear()
        self._age += 1

    def _run(self) -> None:
        self._mended.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", self.port)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        # Closing the server first would leak the sockets that asyncio is about to accept.
        for listener in server.sockets:
            self._loop.remove_reader(listener)
        self._loop.run_until_complete(self._end_connections())
        server.close()
        self._loop.close()

    async def _end_connections(self) -> None:
        """Cancels all connections, also those that asyncio accepted but has not passed on yet.

        asyncio's own tasks run to their end: a task that is cancelled before its first step leaves
        its socket open.
        """
        this = asyncio.current_task()
        while left := asyncio.all_tasks() - {this}:
            for connection in self._connections:
                connection.cancel()
            await asyncio.wait(left)
        await asyncio.sleep(0)  # asyncio closes a socket one loop turn after its transport

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Starts a separate task for the connection.

        If this were a coroutine, it would run in a task of asyncio's streams. Python 3.11 asks such
        a task for its exception even after a cancellation, and logs the resulting CancelledError.
        """
        connection = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        # Not inside the task: a task that is cancelled before its first step runs none of its code.
        connection.add_done_callback(lambda _: writer.transport.abort())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._mended.wait()
        age = self._age
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket_path)
        except OSError:  # the server is down
            return
        try:
            await asyncio.gather(
                self._pass_on(reader, inner_writer, age),
                self._pass_on(inner_reader, writer, age),
            )
        finally:
            inner_writer.transport.abort()  # `close` would wait for a peer that reads nothing

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, age: int
    ) -> None:
        with suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                if age != self._age:
                    continue  # dropped, as by a cut network
                writer.write(block)
                await writer.drain()
        if age != self._age:
            await self._never.wait()  # this side must not notice that the other one has gone
        writer.close()  # first sends what is left
