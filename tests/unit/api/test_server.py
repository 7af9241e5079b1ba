"""The socket on which the API listens."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

from contract.settings import Settings
from producer.api.server import listen


def test_an_answer_in_two_parts_does_not_wait_for_an_acknowledgement() -> None:
    async def connect(listener: socket.socket) -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(look, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await accepted

    with closing(listen(Settings(api_port=0))) as listener:
        assert asyncio.run(connect(listener)) == 1
