"""Serves a process's metrics to Prometheus over HTTP.

Workers, the dispatcher and the HTTP API open the port first, so that a mistake is reported at once.
They register a collector when there is something to show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from contract.errors import UnavailableError
from contract.metrics.metric import Histogram, Metric, Values
from contract.settings import PREFIX, Settings

log = logging.getLogger(__name__)

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def new_registry() -> CollectorRegistry:
    """Makes a registry with the usual metrics of a process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


@contextmanager
def exporting(
    settings: Settings, registry: CollectorRegistry | None = None
) -> Iterator[CollectorRegistry]:
    """Serves the registered metrics inside the `with` block; without a port, serves nothing.

    Raises:
        UnavailableError: the address is taken, or does not belong to this machine.
    """
    registry = registry or new_registry()
    if settings.metrics_port is None:
        yield registry
        return
    address, port = settings.metrics_address, settings.metrics_port
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UnavailableError(
            f"The metrics cannot be served on {address}:{port}: {error.strerror}. Set "
            f"{PREFIX}METRICS_PORT to a free port (0: any), or {PREFIX}METRICS_ADDRESS."
        ) from error
    log.info("metrics on %s, port %d", address, server.server_port)
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def family(metric: Metric, values: Histogram | Values) -> Family:
    """Converts a metric and its values to what Prometheus's client library takes."""
    if isinstance(values, Histogram):
        counts = zip(map(str, values.edges), values.counts, strict=True)
        buckets = [*counts, ("+Inf", values.count)]
        return HistogramMetricFamily(metric.name, metric.help, buckets, values.sum)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        made.add_metric(labels, value)
    return made
