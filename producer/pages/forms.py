"""Reads a submitted form: its fields and files, and the token that proves its session."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.datastructures import FormData
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from producer.api.problems import Refused

MOST_FIELD_BYTES: Final = 8 * 2**20
"""Limit of a pasted list. A longer list must be sent as a file."""
MOST_FIELDS: Final = 20
MOST_FILES: Final = 300
"""All of them are open until the request ends."""
FILE_IN_MEMORY_BYTES: Final = 2**16
TOKEN: Final = "token"  # noqa: S105  (the field's name)


async def _read(request: Request) -> AsyncIterator[FormData]:
    """The form of a request.

    Raises:
        Refused: the form is too large, or not of this session.
    """
    form = await _parse(request)
    try:
        check_token(request, form)
        yield form
    finally:
        await form.close()


class _Parser(MultiPartParser):
    spool_max_size = FILE_IN_MEMORY_BYTES


async def _parse(request: Request) -> FormData:
    limit = request.app.state.service.settings.api_body_bytes
    limited = Request(request.scope, _limited(request, limit))
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limits = {"max_fields": MOST_FIELDS, "max_part_size": MOST_FIELD_BYTES}
    try:
        async with aclosing(limited.stream()) as stream:
            if media_type == "multipart/form-data":
                parser = _Parser(limited.headers, stream, max_files=MOST_FILES, **limits)
                return await parser.parse()
            return await FormParser(limited.headers, stream, **limits).parse()
    except MultiPartException as error:
        raise Refused(
            413,
            f"The form cannot be accepted: {error.message} Send at most {MOST_FILES} files at "
            "once, and a list of more than 8 MiB as a file. `resnextq submit FOLDER` takes any "
            "number of files.",
        ) from error


Form = Annotated[FormData, Depends(_read)]


def check_token(request: Request, form: FormData) -> None:
    """Checks the token of a form.

    Raises:
        Refused: the form is not of this session.
    """
    session = request.state.session
    given = text_of(form, TOKEN)
    if session is None or not hmac.compare_digest(given.encode(), session.form_token.encode()):
        raise Refused(
            403, "This form belongs to another login. Reload the page, and send the form again."
        )


def text_of(form: FormData, name: str) -> str:
    """A field as text. Empty if the field is missing."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def lines_of(form: FormData, name: str) -> list[str]:
    """A field's lines that are not empty."""
    return [line.strip() for line in text_of(form, name).splitlines() if line.strip()]


def _limited(request: Request, limit: int) -> Receive:
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise Refused(
                413,
                f"This is more than {limit:,} bytes. Set RESNEXT_API_BODY_BYTES for more, or "
                "send it in several parts.",
                headers={"Connection": "close"},
            )
        return message

    return receive
