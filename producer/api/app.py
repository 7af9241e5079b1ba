"""Joins the parts of the HTTP API into one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import FastAPI
from fastapi.responses import Response
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract import VERSION
from contract.database.engine import reading
from contract.settings import Settings
from producer.api import events, jobs, results, served
from producer.api.access import Access
from producer.api.keys import Keys
from producer.api.problems import Problem, install, problem
from producer.api.service import Served, Service
from producer.api.shapes import JobIn
from producer.api.watch import Watch

DESCRIPTION: Final = """\
The top-5 ImageNet classes of a million image URIs: submit a list, follow its job, read the answers.

Every request has the header `Authorization: Bearer KEY`; `resnextq keys create` makes keys. Errors
are `application/problem+json` with a `code` for programs and a `detail` for people.
"""
# Nothing of this API is a page, and what a result says must not be taken for one.
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class SafeHeaders:
    """ASGI middleware: each answer has `HEADERS`, those of errors and refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self._app(scope, receive, send_safely if scope["type"] == "http" else send)


def make_app(engine: Engine, settings: Settings) -> FastAPI:
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

    app = FastAPI(
        title="resnext-queue",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # it would load a script from another host
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = Service(engine=engine, settings=settings, watch=watch)
    app.add_middleware(Access, keys=Keys(engine), requests_per_s=settings.api_requests_per_s)
    app.add_middleware(SafeHeaders)  # the last one added is the outermost
    install(app)
    for router in (jobs.router, results.router, events.router, served.router):
        app.include_router(router)
    _add_health(app)
    _describe(app)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], response_class=Response)
    async def alive() -> Response:
        """200: the server answers. It needs no key, and says nothing else."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", tags=["health"], response_class=Response)
    def ready(service: Served) -> Response:
        """200: the database answers as well; else 503."""
        try:
            with reading(service.engine) as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return problem(503, "unavailable", "The database does not answer.")
        return Response("ok\n", media_type="text/plain")


def _describe(app: FastAPI) -> None:
    """Adds to OpenAPI what FastAPI cannot know: the key, problems, and the body of a submit."""
    made = app.openapi()
    parts = made["components"]
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for model in (Problem, JobIn):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        parts["schemas"] |= schema.pop("$defs", {})
        parts["schemas"][model.__name__] = schema
    for path, methods in made["paths"].items():
        for operation in methods.values():
            operation["security"] = [] if path in {"/healthz", "/readyz"} else [{"key": []}]
    app.openapi_schema = made
