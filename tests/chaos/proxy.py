"""A proxy to a server that can be cut like a network: nothing comes through, and no side hears so.

Connections that were open when it was cut stay open and silent until the end; new ones work once
it is mended. It runs in a thread of the process that makes it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 64 * 1024


class Proxy:
    """From a port on loopback to a Unix socket."""

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
        # A server that is closed first leaves the sockets open that asyncio is about to accept.
        for listener in server.sockets:
            self._loop.remove_reader(listener)
        self._loop.run_until_complete(self._end_connections())
        server.close()
        self._loop.close()

    async def _end_connections(self) -> None:
        """Cancels the connections, and those that asyncio has accepted and not passed on yet.

        asyncio's own tasks run to their end: one that is cancelled before its first step leaves
        its socket open.
        """
        this = asyncio.current_task()
        while left := asyncio.all_tasks() - {this}:
            for connection in self._connections:
                connection.cancel()
            await asyncio.wait(left)
        await asyncio.sleep(0)  # asyncio closes a socket one turn after its transport

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Starts a task of its own for the connection.

        A coroutine would be a task of asyncio's streams. Python 3.11 asks such a task for its
        exception also where it was cancelled, and logs the CancelledError that comes of it.
        """
        connection = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        # Not in the task: one that is cancelled before its first step does nothing at all.
        connection.add_done_callback(lambda _: writer.transport.abort())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._mended.wait()
        age = self._age
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket_path)
        except OSError:  # the server is away
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
                    continue  # it goes nowhere
                writer.write(block)
                await writer.drain()
        if age != self._age:
            await self._never.wait()  # this side does not learn that the other one has gone
        writer.close()  # which first sends what is left
