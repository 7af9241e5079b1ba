"""The API's own metrics for Prometheus: at `GET /metrics` for keys with the scope `read`, and
without a key on the metrics port, if one is set.
"""

from __future__ import annotations

import time
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.metrics.exporter import new_registry
from contract.metrics.metric import Metric, by_name
from producer.api.problems import responses

router = APIRouter(tags=["service"])

NO_ROUTE: Final = "none"
METHODS: Final = frozenset({"GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PUT"})
REQUESTS: Final = Metric(
    "resnext_api_requests_total",
    "counter",
    "Requests answered. The route is a template such as `/v1/jobs/{job_id}`, or `none`.",
    labels=("method", "route", "status"),
)
ANSWER_SECONDS: Final = Metric(
    "resnext_api_answer_seconds",
    "histogram",
    "Seconds until an answer begins. A stream may last for hours.",
    labels=("route",),
    edges=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
METRICS: Final = by_name(REQUESTS, ANSWER_SECONDS)


class Metrics:
    """Owns the metrics registry of one application."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.requests = Counter(
            REQUESTS.name, REQUESTS.help, REQUESTS.labels, registry=self.registry
        )
        self.seconds = Histogram(
            ANSWER_SECONDS.name,
            ANSWER_SECONDS.help,
            ANSWER_SECONDS.labels,
            buckets=ANSWER_SECONDS.edges,
            registry=self.registry,
        )


class Counted:
    """ASGI middleware, the outermost, so that refusals are counted too."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else NO_ROUTE
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses()},
)
async def shown(request: Request) -> Response:
    """Metrics of this server, in the text format of Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
