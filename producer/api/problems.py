"""Errors for programs: `application/problem+json` as in RFC 9457.

    {"type": "about:blank", "title": "Not Found", "status": 404,
     "code": "unknown_job", "detail": "No job has the id '0b5f0c6a9d3e4f21'."}

`code` is for programs, `detail` for people. All errors of `contract.errors` and of FastAPI get this
shape.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contract.errors import (
    JobStateError,
    ResnextQueueError,
    SourceError,
    UnavailableError,
    UnknownJobError,
    UsageError,
)
from producer.submit.draft import SubmitInProgressError, TakenAwayError
from producer.submit.key import KeyConflictError

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5
# The first match counts, so subclasses stand before their base classes.
CODES: Final[dict[type[Exception], tuple[int, str]]] = {
    UnknownJobError: (404, "unknown_job"),
    JobStateError: (409, "job_state"),
    SubmitInProgressError: (409, "submit_in_progress"),
    TakenAwayError: (409, "taken_away"),
    KeyConflictError: (422, "key_conflict"),
    SourceError: (422, "bad_source"),
    UsageError: (422, "bad_request"),
    UnavailableError: (503, "unavailable"),
}
# Codes of errors for which FastAPI and this API give only a status.
CODES_BY_STATUS: Final = {
    400: "bad_request",
    401: "no_key",
    403: "scope",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    411: "length_required",
    413: "too_large",
    415: "unsupported_type",
    422: "bad_request",
    429: "too_many_requests",
    503: "unavailable",
}
# Database errors that would come again, because a statement or value is wrong.
OURS: Final = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
# Codes that only one endpoint has.
MORE_CODES: Final = ("uploads_off", "bad_image")


class Problem(BaseModel):
    """A problem of RFC 9457, with a code."""

    type: str = "about:blank"
    title: str = Field(description="Name of the HTTP status.", examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(
        description="For programs.",
        examples=[*(code for _, code in CODES.values()), *CODES_BY_STATUS.values(), *MORE_CODES],
    )
    detail: str = Field(description="What was wrong, and what to do.")
    line: int | None = Field(
        default=None, description="Line of the body, counted from 1, if the error has one."
    )
    column: str | None = Field(
        default=None, description="Column of the body, if the error has one."
    )


class Refused(Exception):
    """A request that is answered with this problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or CODES_BY_STATUS[status]
        self.headers = headers or {}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    where: dict[str, Any] | None = None,
) -> Response:
    shape = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **(where or {}),
    }
    return Response(
        orjson.dumps(shape), status, {"Cache-Control": "no-store"} | (headers or {}), MEDIA_TYPE
    )


# Options of commands that the API knows without dashes. Text that the caller sent stays as it is.
_OPTION: Final = re.compile(
    r"(?<![^\s(`])--(label|min-score|only|error|after|column|id-column|sample)(?![\w-])"
)


def over_http(message: str) -> str:
    """A command's message in the words of a request: `min_score` for `--min-score`."""
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), message)


def answer_for(error: Exception) -> Response:
    """The problem for an error of ours or of the database."""
    if isinstance(error, Refused):
        return problem(error.status, error.code, error.detail, headers=error.headers)
    for kind, (status, code) in CODES.items():
        if isinstance(error, kind):
            again = {"Retry-After": str(RETRY_AFTER_S)} if status in {409, 503} else {}
            if kind is JobStateError:
                again = {}
            where = {
                name: value
                for name in ("line", "column")
                if (value := getattr(error, name, None)) is not None
            }
            return problem(status, code, over_http(str(error)), headers=again, where=where)
    if isinstance(error, DBAPIError) and not isinstance(error, OURS):
        log.warning("Database error: %s", str(error.orig).strip().partition("\n")[0])
        return problem(
            503,
            "unavailable",
            "The database does not answer. Try again.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    log.error("A request failed because of a fault in this program.", exc_info=error)
    return problem(500, "internal", "A fault in this program. The server's log has the details.")


def install(app: FastAPI) -> None:
    """Makes every error of this app a problem."""
    app.add_exception_handler(ResnextQueueError, _answer)
    app.add_exception_handler(Refused, _answer)
    app.add_exception_handler(DBAPIError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(ClientDisconnect, _answer_to_nobody)
    app.add_exception_handler(RequestValidationError, _answer_for_values)
    app.add_exception_handler(HTTPException, _answer_for_status)


async def _answer(_: Request, error: Exception) -> Response:
    return answer_for(error)


async def _answer_to_nobody(_: Request, __: Exception) -> Response:
    """The client disconnected during its request, which is not an error of ours."""
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _answer_for_values(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (what it is installed for)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return problem(422, "bad_request", f"{where}: {first['msg'].removeprefix('Value error, ')}.")


def _methods(request: Request) -> list[str]:
    """The methods of the path, whichever of its routes was found first."""
    path = getattr(request.scope.get("route"), "path", "")
    return [method.upper() for method in request.app.openapi()["paths"].get(path, ())]


async def _answer_for_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (what it is installed for)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI could not read a body
        return problem(422, "bad_request", "The body is not JSON in UTF-8. Send JSON in UTF-8.")
    code = CODES_BY_STATUS.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
    return problem(error.status_code, code, str(error.detail), headers=headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of an endpoint's problems: these, and those of all endpoints."""
    return problems(*statuses, 401, 403, 422, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }
