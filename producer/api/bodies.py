"""Bodies of requests: read to a temporary file, so that memory does not grow with them.

A list of ten million URIs comes as it is (text/plain, text/csv, application/x-ndjson or Parquet).
What is too large is refused, but not before some of the rest has been read: a client that is still
sending would otherwise meet a closed connection in place of the answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Final, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from producer.api.problems import Refused

MEMORY_BYTES: Final = 2**20
"""A body that is larger goes to a file."""
WRITE_BYTES: Final = 2**18
MOST_JSON_BYTES: Final = 32 * 2**20
# Of a body that is refused: as much as the buffers on the way may hold, and some more.
DRAINED_BYTES: Final = 8 * 2**20


class Body:
    """A request's body in a file, which ends with the request."""

    def __init__(self, media_type: str, file: BinaryIO, size: int) -> None:
        self.media_type = media_type
        self.file = file
        self.size = size


async def _read(request: Request) -> AsyncIterator[Body]:
    """
    Raises:
        Refused: it is too large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type in {"", "application/json"}
    limit = MOST_JSON_BYTES if is_json else request.app.state.service.settings.api_body_bytes
    stream = request.stream()
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        await _drain(stream)
        raise _too_large(int(declared), limit, is_json=is_json)
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
        size, ready = 0, bytearray()
        async for part in stream:
            size += len(part)
            if size > limit:
                await _drain(stream)
                raise _too_large(size, limit, is_json=is_json)
            ready += part
            if len(ready) >= WRITE_BYTES:
                await run_in_threadpool(file.write, bytes(ready))
                ready.clear()
        file.write(ready)
        file.seek(0)
        yield Body(media_type, cast("BinaryIO", file), size)


BodyOf = Annotated[Body, Depends(_read)]


async def _drain(stream: AsyncIterator[bytes]) -> None:
    left = DRAINED_BYTES
    async for part in stream:
        left -= len(part)
        if left < 0:
            return


def _too_large(size: int, limit: int, *, is_json: bool) -> Refused:
    how = (
        "Send the images as a list instead: text/plain with a URI a line, text/csv, "
        "application/x-ndjson or Parquet."
        if is_json
        else "Set RESNEXT_API_BODY_BYTES for more, or submit it in parts."
    )
    return Refused(
        413,
        f"The body has {size:,} bytes or more; at most {limit:,} are taken. {how}",
        headers={"Connection": "close"},
    )
