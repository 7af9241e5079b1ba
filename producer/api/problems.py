"""What went wrong, for programs: `application/problem+json` as RFC 9457 has it.

    {"type": "about:blank", "title": "Not Found", "status": 404,
     "code": "unknown_job", "detail": "No job has the id '0b5f0c6a9d3e4f21'."}

`code` is what a program looks at; `detail` is for people. The errors of `contract.errors` and of
FastAPI all become one of these, so that there is one shape to read.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

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
# The first that fits; subclasses stand before what they are made of.
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
# Of what FastAPI and this API say by status alone.
CODES_BY_STATUS: Final = {
    400: "bad_request",
    401: "no_key",
    403: "scope",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    411: "length_required",
    412: "changed",
    413: "too_large",
    415: "unsupported_type",
    422: "bad_request",
    429: "too_many_requests",
    503: "unavailable",
}


class Problem(BaseModel):
    """RFC 9457, with a code."""

    type: str = "about:blank"
    title: str = Field(description="The name of the HTTP status.", examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(
        description="What a program looks at.",
        examples=[*(code for _, code in CODES.values()), *CODES_BY_STATUS.values()],
    )
    detail: str = Field(description="What was wrong, and what to do.")
    line: int | None = Field(default=None, description="Of the body, from 1, where there is one.")
    column: str | None = Field(default=None, description="Of the body, where there is one.")


class Refused(Exception):
    """A request that ends with a problem of this status."""

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


def answer_for(error: Exception) -> Response:
    """The problem that an error of ours, or of the database, is."""
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
            return problem(status, code, str(error), headers=again, where=where)
    if isinstance(error, DBAPIError):
        log.warning("The database: %s", str(error.orig).strip().partition("\n")[0])
        return problem(
            503,
            "unavailable",
            "The database does not answer. Try again.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    log.error("A request ended with an error of this program.", exc_info=error)
    return problem(500, "internal", "An error of this program; its log says more.")


def install(app: FastAPI) -> None:
    """Lets every error of this app end as a problem."""
    app.add_exception_handler(ResnextQueueError, _answer)
    app.add_exception_handler(Refused, _answer)
    app.add_exception_handler(DBAPIError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(RequestValidationError, _answer_for_values)
    app.add_exception_handler(HTTPException, _answer_for_status)


async def _answer(_: Request, error: Exception) -> Response:
    return answer_for(error)


async def _answer_for_values(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (what it is installed for)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return problem(422, "bad_request", f"{where}: {first['msg']}.")


async def _answer_for_status(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (what it is installed for)
    code = CODES_BY_STATUS.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})
    return problem(error.status_code, code, str(error.detail), headers=headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the problems of an endpoint."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in (*statuses, 401, 403, 422, 429, 503)
    }
