"""`POST /v1/images`: takes pictures as multipart/form-data and keeps them where workers can read
them.

They are written to disk as they arrive. Only their first bytes are checked; workers find out
whether a picture can be decoded.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import Response
from python_multipart.multipart import parse_options_header

from contract.errors import UnavailableError
from producer.api.bodies import pieces
from producer.api.incoming import Incoming
from producer.api.problems import Refused, responses
from producer.api.service import Served, json_answer
from producer.api.shapes import UploadedOut

router = APIRouter(prefix="/v1/images", tags=["images"])

MULTIPART: Final = "multipart/form-data"
FORM: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
    },
}
HOW_TO_TURN_ON: Final = (
    "This server keeps no pictures. Set RESNEXT_UPLOADS for `resnextq serve` and the workers to "
    "a folder that both can reach, or to s3://bucket/prefix/. `resnextq up` does so by itself."
)


@router.post(
    "",
    status_code=201,
    responses={201: {"model": UploadedOut}, **responses(404, 413, 415)},
    openapi_extra={"requestBody": {"required": True, "content": {MULTIPART: {"schema": FORM}}}},
)
async def upload(request: Request, service: Served) -> Response:
    """Keep pictures where workers can read them. Each is a file of the form, in any field.

    The answer's `images` can be sent on to `POST /v1/jobs`. Either all pictures are kept or none.
    """
    uploads = service.uploads
    if uploads is None:
        raise Refused(404, HOW_TO_TURN_ON, code="uploads_off")
    boundary = _boundary_of(request)
    try:
        async with contextmanager_in_threadpool(uploads.incoming()) as folder:
            with Incoming(boundary, folder, service.settings.max_image_bytes) as incoming:
                async for piece in pieces(request, service.settings.api_body_bytes):
                    await run_in_threadpool(incoming.write, piece)
            pictures = incoming.finish()
            uris = await run_in_threadpool(uploads.keep, pictures)
    except OSError as error:
        raise UnavailableError(
            f"Pictures cannot be kept in {uploads.where}: {error.strerror}."
        ) from error
    kept = zip(uris, pictures, strict=True)
    return json_answer({"images": [{"uri": uri, "ref": one.ref} for uri, one in kept]}, 201)


def _boundary_of(request: Request) -> bytes:
    """The boundary between the form's parts.

    Raises:
        Refused: the body has another type, or no boundary.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != MULTIPART.encode():
        given = media_type.decode("latin-1")
        raise Refused(
            415, f"The body has the type {given!r}, but pictures must be sent as {MULTIPART}."
        )
    if b"boundary" not in options:
        raise Refused(
            422, "The header Content-Type has no boundary. Let your HTTP library set the header."
        )
    return options[b"boundary"]
