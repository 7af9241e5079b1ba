"""The pages and the API as one ASGI application. Paths that belong to no page go to the API."""

from __future__ import annotations

import re
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from contract.errors import ResnextQueueError, UnavailableError, UnknownJobError
from contract.log import log_about
from contract.settings import Settings
from producer.api.app import make_app
from producer.api.bodies import Drained
from producer.api.keys import Keys
from producer.api.metrics import Metrics
from producer.api.problems import Refused
from producer.api.service import Service
from producer.pages import fleet, job, login, picture, start
from producer.pages.gate import Gate
from producer.pages.html import refusal_page, static_file
from producer.pages.login import Doorkeeper
from producer.pages.sessions import Sessions

PAGES: Final = ("/", "/login", "/logout", "/jobs", "/workers", "/favicon.ico")
BELOW: Final = ("/jobs/", "/static/")
_JOB: Final = re.compile(r"/(?:v1/)?jobs/(?P<id>[A-Za-z0-9_-]{1,32})(?:/|$)")


class Site:
    """ASGI application: passes each request to the pages or to the API."""

    def __init__(self, api: ASGIApp, pages: ASGIApp) -> None:
        self._api = api
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and _is_page(scope["path"])
        with log_about(**_work_of(scope)):
            await (self._pages if is_page else self._api)(scope, receive, send)


def make_site(engine: Engine, settings: Settings, counts: Metrics | None = None) -> Site:
    """Makes the application.

    Raises:
        UsageError: as in `make_app`.
    """
    api = make_app(engine, settings, counts)
    return Site(api, make_pages(engine, api.state.service))


def make_pages(engine: Engine, service: Service) -> ASGIApp:
    """Makes the application of the pages. The gate is outermost, so that error pages have its
    headers.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    sessions = Sessions(engine)
    app.state.service = service
    app.state.sessions = sessions
    app.state.doorkeeper = Doorkeeper(Keys(engine), sessions)
    for kind in (Refused, ResnextQueueError, DBAPIError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(Exception, _answer)
    for router in (login.router, start.router, picture.router, job.router, fleet.router):
        app.include_router(router)
    app.get("/static/{name}")(static_file)
    app.get("/favicon.ico")(_icon)
    return Drained(Gate(app, sessions=sessions))


def _work_of(scope: Scope) -> dict[str, str | int]:
    """The fields for log lines about the request: the job in its path."""
    named = _JOB.match(scope["path"]) if scope["type"] == "http" else None
    return {} if named is None else {"job": named["id"]}


def _is_page(path: str) -> bool:
    return path in PAGES or path.startswith(BELOW)


def _icon() -> Response:
    return Response(status_code=204)


async def _answer(request: Request, error: Exception) -> Response:
    return refusal_page(_refused(error), getattr(request.state, "session", None))


def _refused(error: Exception) -> Exception:
    """The error with a status and a message for people."""
    match error:
        case UnknownJobError():
            return Refused(404, str(error))
        case UnavailableError():
            return Refused(503, str(error))
        case ResnextQueueError():
            return Refused(409, str(error), code="bad_request")
        case RequestValidationError():
            return Refused(404, "There is no such page.")
        case HTTPException(status_code=status):
            return Refused(status, "There is no such page.", code="not_found")
        case _:
            return error
