"""Reads request bodies to a file as they arrive, so that memory does not grow with them.

A list of ten million URIs is sent as it is (text/plain, text/csv, application/x-ndjson or Parquet).
A refusal is sent only after some of the rest has been read: a client that is still sending would
otherwise see a closed connection instead of the answer.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, BinaryIO, Final, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.problems import Refused

MEMORY_BYTES: Final = 2**20
"""A larger body goes to a file."""
WRITE_BYTES: Final = 2**18
MOST_JSON_BYTES: Final = 32 * 2**20
# Bytes of a refused body that are still read: somewhat more than the buffers on the way hold.
DRAINED_BYTES: Final = 8 * 2**20
DRAINED_S: Final = 5.0


class Body:
    """A request's body in a file that lives as long as the request."""

    def __init__(self, media_type: str, file: BinaryIO, size: int) -> None:
        self.media_type = media_type
        self.file = file
        self.size = size


async def pieces(request: Request, most_bytes: int, how: str = "") -> AsyncIterator[bytes]:
    """The body in pieces of at least `WRITE_BYTES`. Only the last one may be shorter.

    Raises:
        Refused: the body is too large; `how` says what to do instead.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(int(declared), most_bytes, how)
    size, ready = 0, bytearray()
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            raise _too_large(size, most_bytes, how)
        ready += part
        if len(ready) >= WRITE_BYTES:
            yield bytes(ready)
            ready.clear()
    if ready:
        yield bytes(ready)


async def _read(request: Request) -> AsyncIterator[Body]:
    """Reads the body to a file.

    Raises:
        Refused: the body is too large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in {"", "application/json"}:
        limit, how = MOST_JSON_BYTES, AS_A_LIST
    else:
        limit, how = request.app.state.service.settings.api_body_bytes, ""
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
        size = 0
        async for piece in pieces(request, limit, how):
            size += len(piece)
            await run_in_threadpool(file.write, piece)
        file.seek(0)
        yield Body(media_type, cast("BinaryIO", file), size)


BodyOf = Annotated[Body, Depends(_read)]
AS_A_LIST: Final = (
    "Send the images as a list instead: text/plain with one URI per line, text/csv, "
    "application/x-ndjson or Parquet."
)


def _too_large(size: int, limit: int, how: str) -> Refused:
    how = how or "Set RESNEXT_API_BODY_BYTES for more, or send several smaller bodies."
    return Refused(413, f"The body has {size:,} bytes or more; the limit is {limit:,}. {how}")


class Drained:
    """ASGI middleware. Reads some more of the body before an early answer.

    A client that waits to be asked for the body (`Expect: 100-continue`) gets the answer at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        rest = _Rest(scope, receive)

        async def send_drained(message: Message) -> None:
            if message["type"] == "http.response.start":
                await rest.drain()
            await send(message)

        await self._app(scope, rest.receive, send_drained)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class _Rest:
    """The rest of a body."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._is_over = False
        self._is_awaited = "expect" in Headers(scope=scope)

    async def receive(self) -> Message:
        self._is_awaited = False
        message = await self._receive()
        self._is_over = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        left = DRAINED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAINED_S):
                while not self._is_over and not self._is_awaited and left > 0:
                    left -= len((await self.receive()).get("body", b""))
