"""Joins the parts of the HTTP API into one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cache, partial
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract import VERSION
from contract.database.engine import reading
from contract.settings import Settings
from producer.api import docs, events, images, jobs, metrics, results, served, thumbnails
from producer.api.access import Access
from producer.api.bodies import Drained
from producer.api.keys import Keys
from producer.api.metrics import Counted, Metrics
from producer.api.problems import Problem, Refused, install, problem, problems
from producer.api.service import Served, Service
from producer.api.shapes import JobIn
from producer.api.uploads import open_uploads
from producer.api.watch import Watch
from producer.jobs.job import owner_of

DESCRIPTION: Final = """\
The top-5 ImageNet classes of a million image URIs: submit a list, follow its job, read the answers.

Every request needs the header `Authorization: Bearer KEY`; `resnextq keys create` creates keys.
Errors are `application/problem+json` with a `code` for programs and a `detail` for people.
"""
MOST_SHOWN_CHARS: Final = 64
# The API has no pages, and browsers must not take a result's text for one.
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class SafeHeaders:
    """ASGI middleware. Adds `HEADERS` to each answer that does not have them, including errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in HEADERS if name not in own]
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_safely if scope["type"] == "http" else send)


def make_app(engine: Engine, settings: Settings, counts: Metrics | None = None) -> FastAPI:
    """Makes the application.

    Raises:
        UsageError: the place for uploads cannot be used.
    """
    watch = Watch(engine, settings.lease_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch.run())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    app = _with_routes(lifespan)
    app.openapi = _document  # type: ignore[method-assign]  # as FastAPI documents it
    app.state.service = Service(
        engine=engine, settings=settings, watch=watch, uploads=open_uploads(settings)
    )
    app.add_middleware(
        Access,
        keys=Keys(engine),
        owner_of=partial(owner_of, engine),
        requests_per_s=settings.api_requests_per_s,
    )
    app.add_middleware(Drained)
    app.state.metrics = counts or Metrics()
    app.add_middleware(Counted, metrics=app.state.metrics)
    app.add_middleware(SafeHeaders)  # the last one added is the outermost
    install(app)
    return app


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def _with_routes(lifespan: Lifespan | None) -> FastAPI:
    app = FastAPI(
        title="resnext-queue",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # it would load a script from another host
        redoc_url=None,
        openapi_url="/openapi.json",
        dependencies=[Depends(_refuse_unknown)],
    )
    for part in (jobs, results, thumbnails, events, images, served, metrics, docs):
        app.include_router(part.router)
    _add_health(app)
    return app


async def _refuse_unknown(request: Request) -> None:
    """Refuses unknown query parameters: ignoring a typing error would answer another question.

    Raises:
        Refused: the endpoint has no such query parameter.
    """
    if not request.query_params:
        return
    known = _parameters(request.app.openapi(), request.scope["route"].path, request.method)
    for name in request.query_params:
        if name not in known:
            there = (
                f"This path takes {', '.join(known)}" if known else "This path takes no parameters"
            )
            raise Refused(422, f"query.{name[:MOST_SHOWN_CHARS]}: unknown parameter. {there}.")


def _parameters(openapi: dict[str, Any], path: str, method: str) -> list[str]:
    told = openapi["paths"].get(path, {}).get(method.lower(), {}).get("parameters", ())
    return [one["name"] for one in told if one["in"] == "query"]


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], response_class=Response)
    async def alive() -> Response:
        """200 if the server answers. It needs no key and says nothing else."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", tags=["health"], response_class=Response, responses=problems(503))
    def ready(service: Served) -> Response:
        """200 if the database answers as well, otherwise 503."""
        try:
            with reading(service.engine) as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return problem(503, "unavailable", "The database does not answer.")
        return Response("ok\n", media_type="text/plain")


@cache
def _document() -> dict[str, Any]:
    """The OpenAPI document, the same for each app. Adds what FastAPI cannot know: the key,
    problems, and the body of a submit.
    """
    made = _with_routes(None).openapi()
    parts = made["components"]
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for model in (Problem, JobIn):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        parts["schemas"] |= schema.pop("$defs", {})
        parts["schemas"][model.__name__] = schema
    for path, methods in made["paths"].items():
        for operation in methods.values():
            operation["security"] = [] if path in {"/healthz", "/readyz"} else [{"key": []}]
    return made
