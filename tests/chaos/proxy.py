"""A way to a server that can be cut like a network: nothing comes through, nobody is told.

Connections that were there when it was cut stay open and silent for ever, on both sides; new
ones work once it is mended. Runs in threads of the process that makes it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 64 * 1024


class Proxy:
    """From a port on loopback to a Unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self.port = 0
        self._socket_path = socket_path
        self._loop = asyncio.new_event_loop()
        self._mended: asyncio.Event | None = None
        self._never = asyncio.Event()
        self._age = 0
        """Connections of an earlier age are cut."""
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def start(self) -> None:
        self._thread.start()
        self._listening.wait()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._cut)

    def mend(self) -> None:
        assert self._mended is not None
        self._loop.call_soon_threadsafe(self._mended.set)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _cut(self) -> None:
        assert self._mended is not None
        self._mended.clear()
        self._age += 1

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._mended = asyncio.Event()
        self._mended.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connect, "127.0.0.1", self.port)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # sockets are closed a turn later
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._mended is not None
        await self._mended.wait()
        age = self._age
        with closing(writer), suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket_path)
            with closing(inner_writer):
                await asyncio.gather(
                    self._pass_on(reader, inner_writer, age),
                    self._pass_on(inner_reader, writer, age),
                )

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
            await self._never.wait()  # nobody is told that the other side has gone
        with suppress(OSError):
            writer.close()
